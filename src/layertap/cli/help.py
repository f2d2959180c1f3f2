"""Help texts of one screen: options in groups, words explained, an example."""

import click

# The groups of a command with many options.
_GROUPS = {
    "Values": (
        *("before", "outputs", "joins", "for_head", "dtype", "reduce"),
        *("gradients", "attributions", "baseline", "steps"),
    ),
    "Data": ("labels", "ids", "preprocess", "skip_bad", "batch_size", "pad"),
    "Store": (
        *("output", "compression", "memory", "overwrite", "recompute"),
        *("ray", "workers", "num_gpus"),
    ),
}
_MANY = 12
# Words in capitals that several commands have, in the order in which they are shown.
_WORDS = {
    "DATA": "a .npy, .npz or .parquet file, Zarr, a folder of images, CALLABLE",
    "GLOB": "a name or a pattern, such as 'encoder/*'; may be repeated",
    "OF": "a number for each row: loss, the index of an output, or CALLABLE",
    "CALLABLE": "a Python function or class, written package.module:callable",
}


class HelpTexts(click.Command):
    """A command whose help ends with an example, its epilog."""

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Writes the options, in groups if they are many, then the words they use."""
        rows, words = {}, set()
        for parameter in self.get_params(ctx):
            words |= {*str(parameter.make_metavar(ctx)).split("|")}
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                rows[str(parameter.name)] = record
        groups = _GROUPS if len(rows) > _MANY else {}
        width = max(len(term) for term, _ in rows.values())
        for title, names in {**groups, "Options": tuple(rows)}.items():
            shown = [rows.pop(name) for name in names if name in rows]
            if shown:
                with formatter.section(title):
                    # One column for all groups.
                    formatter.write_dl([(f"{t:<{width}}", text) for t, text in shown])
        if words & {"DATA", "OF"}:
            words.add("CALLABLE")
        if explained := [(word, _WORDS[word]) for word in _WORDS if word in words]:
            with formatter.section("Words"):
                formatter.write_dl(explained)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the example: lines that can be copied."""
        if self.epilog:
            files = ", after `layertap demo`" if "layertap-demo" in self.epilog else ""
            with formatter.section(f"Example{files}"):
                formatter.write_text(f"\b\n{self.epilog}")
