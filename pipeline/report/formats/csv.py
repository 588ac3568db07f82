"""Tables in CSV: what is shown, cell by cell."""

from __future__ import annotations

import csv
import io

from pipeline.report.table import NOTHING, Table


def write(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.title for column in table.columns])
    writer.writerows(["" if cell.text == NOTHING else cell.text for cell in row] for row in table.rows)
    return out.getvalue()
