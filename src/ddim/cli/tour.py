"""`ddim --help`: the commands in groups, each with a sentence and an example."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperGroup

from ddim.cli.ending import hushed, interrupted, say
from ddim.extras import broken_off


class Tour(TyperGroup):
    """Commands under the headings that they are registered with, in their order."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write them all, with their whole first sentences, and their examples below."""
        groups: dict[str, list[tuple[str, str, str]]] = {}
        wide = max(map(len, self.commands))
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            sentence = command.get_short_help_str(limit=1000)
            example = str(command.epilog or "").removeprefix("Example: ")
            groups.setdefault(command.rich_help_panel, []).append((name, sentence, example))
        for heading, rows in groups.items():
            with formatter.section(heading):
                for name, sentence, example in rows:
                    formatter.write_dl([(name.ljust(wide), sentence)])
                    formatter.write(f"{'':{wide + 4}}$ {example}\n")

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of registration."""
        return list(self.commands)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the words apart. Raises ValueError for an empty one, as of an unset variable."""
        for before, word in pairwise(["ddim", *args]):
            if not word or re.fullmatch("--[a-z-]+=", word):
                flag = word or before
                raise ValueError(f"the value after {flag} is empty; give one, or leave it out")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C is a sentence, and status 75 if the command goes on later."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # as of `ddim plan | head`
            hushed()
            raise typer.Exit(1) from None
        except (Exception, KeyboardInterrupt) as error:
            if not broken_off(error):
                raise
            text, status = interrupted(ctx.invoked_subcommand)
            say(text)
            raise typer.Exit(status) from None
