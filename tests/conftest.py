import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before diffusers is imported: no test uses the network

import pytest
import torch
from hypothesis import settings

settings.register_profile("same every time", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("same every time")
torch.set_num_threads(1)  # the networks here are too small to share


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)
