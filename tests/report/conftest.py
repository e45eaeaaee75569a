"""Reports of levels that are made up."""

import pytest
from builders import TABLE1, paper_macs
from reports import COMPARED, progress_of, report_of

from dsdctl.plan.plan import make_plan
from dsdctl.plan.resolve import resolve
from dsdctl.report.table import Report, make_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report_of(tmp_path_factory.mktemp("report"), COMPARED)


@pytest.fixture(scope="module")
def table1(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The paper's own spec, its levels made up."""
    plan = make_plan([resolve(TABLE1)])
    (made,) = make_report(progress_of(tmp_path_factory.mktemp("table1"), plan), paper_macs)
    return made
