"""The help of commands: their options in groups."""

from __future__ import annotations

import click

FEW = 8
"""Commands with at most this many options list them without groups."""
_GROUPS = {
    "Selection": "select ignore extend_select show_info fail_on exit_zero rules_dirs kinds severities fixable",
    "Inputs and recording": (
        "inputs args argv trains frozen strict numeric cost timeout max_memory steps max_batches tracking module"
    ),
    "Output": "output_format output_file also statistics quiet verbose color depth expand parameters",
    "Fixing": "fix unsafe_fixes fix_only diff add_ignores baseline write_baseline since",
    "Files, configuration and cache": "stdin_filename extend_exclude force_exclude config isolated no_cache cache_dir",
}
"""Heading → the parameters of commands that stand below it."""
_HEADINGS = {name: heading for heading, names in _GROUPS.items() for name in names.split()}


class GroupedCommand(click.Command):
    """A command whose help lists many options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options below their headings."""
        groups: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*_GROUPS, "Other")}
        rows = [(param, param.get_help_record(ctx)) for param in self.get_params(ctx)]
        if sum(record is not None for _, record in rows) <= FEW:
            super().format_options(ctx, formatter)
            return
        for param, record in rows:
            if record is not None:
                groups[_HEADINGS.get(param.name or "", "Other")].append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
