"""Tables and figures of all results: ``python -m benchmarks.report``.

Tables go into ``docs/measurements.md`` and ``docs/papers.md``, between ``<!-- results:NAME -->`` and ``<!-- end -->``,
one per device and precision; figures go to ``benchmarks/results/figures/``.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.papers import PAPERS, paper
from benchmarks.suite import RESULTS, is_measured
from benchmarks.tables import TABLES, File, load

DOCS = Path(__file__).parent.parent / "docs"
DOCUMENTS = (DOCS / "measurements.md", DOCS / "papers.md")


def section(name: str, files: list[File]) -> str:
    """One table per device and precision, each under a line that says where it was measured."""
    group, write = (f"papers.{name}", paper(name).table) if name in PAPERS else TABLES[name]
    command = f"python -m benchmarks.{group}" if name in PAPERS else f"python -m benchmarks.run {group}"
    parts = []
    for file in files:
        if file.group == group:
            versions = file.environment["versions"]
            where = f"{file.environment['device']}, {file.environment['dtype']}, jax {versions['jax']}"
            left_out = sum(not is_measured(row) for row in file.rows)
            note = f"; {left_out} jobs of this group skipped or failed" if left_out else ""
            parts.append(f"{where} (`{command}`){note}:\n\n{write(file)}")
    return "\n\n".join(parts) or f"Not measured yet (`{command}`)."


def rewritten(text: str, files: list[File]) -> str:
    """A text with the tables between its markers replaced.

    Raises
    ------
    ValueError
        If a marker names no table.
    """

    def replace(match: re.Match) -> str:
        name = match[1]
        if name not in (*TABLES, *PAPERS):
            raise ValueError(f"results:{name} names no table; there are {', '.join((*TABLES, *PAPERS))}.")
        return f"<!-- results:{name} -->\n\n{section(name, files)}\n\n<!-- end -->"

    return re.sub(r"<!-- results:(\w+) -->.*?<!-- end -->", replace, text, flags=re.DOTALL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    from benchmarks.figures import draw  # noqa: PLC0415 - matplotlib is an extra, and takes a second

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument(
        "--documents", type=Path, nargs="+", default=DOCUMENTS, help="files whose marked tables are rewritten"
    )
    chosen = parser.parse_args(arguments)
    files = load(chosen.results)
    for document in chosen.documents:
        document.write_text(rewritten(document.read_text(), files))
    for path in draw(files, chosen.results / "figures"):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
