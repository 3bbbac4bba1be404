import pytest

from ddim import DDIM, DDPM, build, describe
from ddim.schedules import SCHEDULES
from ddim.solvers import SOLVERS
from ddim.spec import choose

WRITTEN = {
    "ddim:eta=0": DDIM(),
    "ddim:eta=0.5": DDIM(eta=0.5),
    "ddim:eta=1e-07": DDIM(eta=1e-7),
    "ddpm": DDPM(),
    "ddim:eta=1,added=hat": DDIM(eta=1, added="hat"),
    "ddim:eta=0/0.5/1": DDIM(eta=(0.0, 0.5, 1.0)),
    "ddim:eta=0.25/": DDIM(eta=(0.25,)),
    "ddim:eta=0,sigmas=0.1/0": DDIM(sigmas=(0.1, 0.0)),
}


@pytest.mark.parametrize(("text", "solver"), WRITTEN.items())
def test_text_and_solver_are_each_others_image(text, solver):
    assert describe(solver) == text
    assert build(text) == solver


def test_blanks_and_lower_case_are_read_and_an_unnamed_solver_is_said_to_be():
    assert build("dpmpp:order=3, compat=true") == build("dpmpp:order=3,compat=True")

    class Mine:
        pass

    with pytest.raises(ValueError, match=r"Mine has no name; put it into ddim\.solvers\.SOLVERS"):
        describe(Mine())


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_is_built_by_its_name_and_written_again(name):
    assert build(describe(build(name))) == build(name)


def test_ddpm_is_ddim_at_eta_1():
    assert build("ddim:eta=1") == DDPM()
    assert describe(build("ddim:eta=1")) == "ddpm"


def test_schedules_are_built_by_the_same_words():
    assert choose("linear:T=50", SCHEDULES).T == 50
    assert choose("cosine:s=0.1,T=10", SCHEDULES).T == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("euler", "'euler' is unknown; choose one of ddim, ddpm"),
        (
            "ddim:steps=3",
            "does not take 'steps=3'; write ddim:key=value with eta or sigmas or added",
        ),
        ("ddim:eta", "does not take 'eta'"),
        ("ddpm:eta=1", "no options at all"),
        ("dpmpp:order=2,order=3", "does not take 'order=3'"),
        ("ddim:eta=lots", "eta=lots; choose 0"),
        ("ddim:sigmas=0.5", "give a tuple of numbers"),
        ("ddim:eta=-1", "eta=-1; choose 0"),
        ("", "choose one of"),
    ],
)
def test_text_that_names_nothing_is_refused_with_what_is_allowed(text, words):
    with pytest.raises(ValueError, match=words):
        build(text)


@pytest.mark.parametrize("text", ["cosine:s=x", "sigmoid:tau=x", "cosine:s=1/2"])
def test_a_value_of_the_wrong_kind_is_refused_in_words_of_ours(text):
    name = text.partition(":")[0]
    with pytest.raises(ValueError, match="wrong kind") as caught:
        choose(text, SCHEDULES)
    said, _, example = str(caught.value).partition("; write values such as ")
    assert said == f"{text!r}: a value has the wrong kind"
    assert example.startswith(f"{name}:T=1000,")
    assert choose(example, SCHEDULES).signal.equal(SCHEDULES[name]().signal)
