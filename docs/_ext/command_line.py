"""The directive ``command-line``: the commands and options of ``tnet``, read from the parser itself."""

from __future__ import annotations

from typing import Any

import typer
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class CommandLine(SphinxDirective):
    """One section a command: its help, its call, and a definition list of arguments and options."""

    def run(self) -> list[nodes.Node]:
        from tnet.cli import app

        group: Any = typer.main.get_command(app)
        lines: list[str] = []
        for name, command in group.commands.items():
            call = [parameter.name for parameter in command.params if parameter.param_type_name == "argument"]
            usage = " ".join(["tnet", name, *(str(argument).upper() for argument in call), "[OPTIONS]"])
            lines += [
                f"tnet {name}",
                "-" * (len(name) + 5),
                "",
                *command.help.splitlines(),
                "",
                "::",
                "",
                f"   {usage}",
                "",
            ]
            for parameter in command.params:
                lines += [_title(parameter), f"   {_text(parameter)}", ""]
        section = nodes.section()
        section.document = self.state.document
        self.state.nested_parse(StringList(lines, source=__file__), self.content_offset, section, match_titles=True)
        return section.children


def _title(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"``{str(parameter.name).upper()}``"
    spelled = ", ".join(parameter.opts)
    return f"``{spelled}``" if parameter.is_flag else f"``{spelled} {str(parameter.name).upper()}``"


def _text(parameter: Any) -> str:
    default = parameter.default
    shown = "" if default is None or parameter.is_flag or parameter.required else f" Default: ``{default}``."
    return f"{parameter.help or ''}{shown}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("command-line", CommandLine)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
