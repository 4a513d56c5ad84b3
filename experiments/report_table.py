"""Tables of a report as HTML."""

from collections.abc import Iterable
from html import escape

from .svg import number
from .table import Column, Figure, Line, Table

PARTS = (
    '<th class="starts" scope="col">paper</th>'
    '<th scope="col">measured</th>'
    '<th scope="col">difference</th>'
)
SIGNS = {"↑": "higher is better", "↓": "lower is better"}


def stacked(parts: Iterable[str]) -> str:
    """One part a line."""
    return "\n".join(parts)


def table_html(table: Table, name: str) -> str:
    """A table with its notes; ``name`` is the id of its heading."""
    trained = stacked(table_row(line, table.columns) for line in table.lines if not line.control)
    controls = stacked(table_row(line, table.columns) for line in table.lines if line.control)
    notes = stacked(f"<li>{escape(note)}</li>" for note in table.notes)
    cells = 1 + sum(map(width, table.columns))
    below = f"""<tbody class="controls">
<tr><th class="group" scope="rowgroup" colspan="{cells}"><span>Controls</span></th></tr>
{controls}
</tbody>"""
    return f"""<div class="scroll" role="region" aria-labelledby="{name}" tabindex="0">
<table>
{table_head(table.columns)}
<tbody>
{trained}
</tbody>
{below if controls else ""}
</table>
</div>
<ul class="notes">
{notes}
</ul>"""


def width(column: Column) -> int:
    """How many cells a figure takes: paper, measured and difference, or measured alone."""
    return 3 if column.paper else 1


def table_head(columns: Iterable[Column]) -> str:
    """Two rows: the figures' names, then paper · measured · difference where the paper has any."""
    names = "".join(column_name(column) for column in columns)
    below = "".join(PARTS for column in columns if column.paper)
    return f"""<thead>
<tr><th class="row" rowspan="2" scope="col">row</th>{names}</tr>
<tr>{below}</tr>
</thead>"""


def column_name(column: Column) -> str:
    """A figure's name over its cells, with the direction in words for those who cannot see it."""
    span = 'colspan="3" scope="colgroup"' if column.paper else 'rowspan="2" scope="col"'
    words, title = SIGNS.get(column.better), escape(column.title)
    arrow = f'&nbsp;<span title="{words}" aria-label="{words}" role="img">{column.better}</span>'
    return f'<th class="figure starts" {span}>{title}{arrow if words else ""}</th>'


def table_row(line: Line, columns: Iterable[Column]) -> str:
    """A row: its title, its note as a badge, its figures."""
    badge = f' <span class="badge">{escape(line.note)}</span>' if line.note else ""
    cells = "".join(figure_cells(line, column) for column in columns)
    return f'<tr><th class="row" scope="row">{escape(line.title)}{badge}</th>{cells}</tr>'


def figure_cells(line: Line, column: Column) -> str:
    """The cells of one figure."""
    figure = line.figures[column.key]
    if not column.paper:
        return measured_cell(figure, column.digits, "starts")
    measured = measured_cell(figure, column.digits)
    return paper_cell(figure, column.digits) + measured + difference_cell(figure, column.digits)


def paper_cell(figure: Figure, digits: int) -> str:
    """The paper's figure; it prints two digits at most."""
    if figure.paper is None:
        return '<td class="none starts">–</td>'
    return f'<td class="from-paper starts">{figure.paper:.{min(digits, 2)}f}</td>'


def measured_cell(figure: Figure, digits: int, starts: str = "") -> str:
    """What was measured, its interval below it; the first cell of a figure ``starts`` it."""
    if figure.measured is None:
        return f'<td class="{starts} none">n/a</td>'
    interval = ""
    if figure.half_interval is not None:
        interval = f'<span class="interval">± {figure.half_interval:.{digits}f}</span>'
    return f'<td class="{starts}">{number(figure.measured, digits)}{interval}</td>'


def difference_cell(figure: Figure, digits: int) -> str:
    """Measured - paper, without a verdict: the paper states no interval and no protocol."""
    if figure.difference is None:
        return '<td class="none">–</td>'
    return f"<td>{number(figure.difference, digits, '+')}</td>"
