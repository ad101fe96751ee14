"""Help as plain text in sections: quicker than rich's, whose import alone costs more than the whole answer may."""

from typing import Any

from typer.core import TyperCommand


class Sectioned(TyperCommand):
    """A command whose options are listed under their `rich_help_panel`, in the order in which those first appear."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer keeps their types to itself
        """Write arguments, then each section of options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None:
                continue
            usual = "Arguments" if param.param_type_name == "argument" else "Options"
            section = getattr(param, "rich_help_panel", None) or usual
            name, said = record
            if section == "Arguments":
                name = name.replace(" <str>", "").replace(" <list[str]>", "")
            sections.setdefault(section, []).append((name, said))
        for name in ("Options",):  # the usual ones last
            if name in sections:
                sections[name] = sections.pop(name)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)
