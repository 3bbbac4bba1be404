"""`ddim --help`: the commands in groups, each with a sentence."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class Tour(TyperGroup):
    """Commands under the headings that they are registered with, in their order."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write them all, with their whole first sentences."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            sentence = command.get_short_help_str(limit=1000)
            groups.setdefault(command.rich_help_panel, []).append((name, sentence))
        for heading, rows in groups.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of registration."""
        return list(self.commands)
