"""From what the ranks said to what pytest shows: the reports of one distributed test.

The traceback of the first failing rank is the failure. Around it, as sections: which ranks
passed, failed, waited or died; the stacks of those that waited; what ranks printed; and the
last words of mpiexec.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.pool import Member, Outcome
from tests.support.stacks import readable

_TAIL = 6000  # characters kept of what one rank printed


def compose(
    item: pytest.Item, outcome: Outcome, duration_s: float, timeout_s: float
) -> list[pytest.TestReport]:
    """The reports of `item`, one per phase, as if it had run in this process.

    Parameters
    ----------
    item : pytest.Item
        The test.
    outcome : Outcome
        What the pool saw.
    duration_s, timeout_s : float
        Wall time of the test, and the time it was given.
    """
    by_rank = [[_load(item, data) for data in member.reports] for member in outcome.members]
    if (failed := _first_failed(item, outcome, by_rank, timeout_s)) is None:
        return by_rank[0]
    reports = [report for report in by_rank[outcome.first_failed or 0] if report.outcome != "failed"]
    reports = [report for report in reports if report.when != failed.when]
    order = ["setup", "call", "teardown"]
    reports = sorted([*reports, failed], key=lambda report: order.index(report.when))
    failed.duration = duration_s
    failed.sections = [*_sections(outcome), *failed.sections]
    return reports


def refuse(item: pytest.Item, text: str) -> list[pytest.TestReport]:
    """The report of a test that could not be started on any rank."""
    return [_failure(item, text, when="setup")]


def _load(item: pytest.Item, data: dict[str, Any]) -> pytest.TestReport:
    """A report as pytest made it on a rank."""
    data = dict(data)  # pytest rebuilds the traceback in place; the verdicts still need the plain one
    report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
    assert isinstance(report, pytest.TestReport)
    longrepr: Any = report.longrepr
    if isinstance(longrepr, list):  # the place and reason of a skip: JSON knows no tuples
        report.longrepr = (longrepr[0], longrepr[1], longrepr[2])
    return report


def _first_failed(
    item: pytest.Item, outcome: Outcome, by_rank: list[list[pytest.TestReport]], timeout_s: float
) -> pytest.TestReport | None:
    """The report that tells the failure: a rank's own, else one made from how the test ended."""
    if outcome.first_failed is not None:
        return next(report for report in by_rank[outcome.first_failed] if report.failed)
    lost = [member.rank for member in outcome.members if member.lost]
    if lost:
        return _failure(item, f"{_ranks(lost)} died in this test without a traceback; see the sections below")
    if outcome.timed_out:
        late = [member.rank for member in outcome.members if not member.done]
        text = f"{_ranks(late)} had not finished after {timeout_s:g} s and no rank failed"
        return _failure(item, f"{text}: a deadlock, or too slow")
    if strangers := [member for member in outcome.members if not member.known]:
        text = f"{_ranks([m.rank for m in strangers])} did not collect this test\n{strangers[0].errors}"
        return _failure(item, text)
    verdicts = [[(report.when, report.outcome) for report in reports] for reports in by_rank]
    if any(verdict != verdicts[0] for verdict in verdicts):
        return _failure(item, f"the ranks disagree whether the test is skipped: {verdicts}")
    return None


def _failure(item: pytest.Item, text: str, when: Any = "call") -> pytest.TestReport:
    """A failed report that no rank made."""
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed",
        longrepr=text,
        when=when,
    )


def _sections(outcome: Outcome) -> list[tuple[str, str]]:
    """What stands around the traceback."""
    lines = [f"rank {member.rank}: {_verdict(member)}" for member in outcome.members]
    sections = [(f"first failure on rank {outcome.first_failed}; all ranks", "\n".join(lines))]
    if outcome.first_failed is None:
        sections = [("all ranks", "\n".join(lines))]
    sections += [(f"where rank {rank} waits", readable(text)) for rank, text in outcome.stacks.items()]
    spoken = {rank: readable(text)[-_TAIL:] for rank, text in outcome.output.items() if text}
    sections += [(f"output of rank {rank}", text) for rank, text in spoken.items()]
    if outcome.launcher:
        sections.append(("mpiexec says", outcome.launcher[-_TAIL:]))
    return sections


def _verdict(member: Member) -> str:
    """One line on how the test ended on a rank."""
    for report in member.reports:
        if report["outcome"] == "failed":
            longrepr = report["longrepr"]
            crash = longrepr.get("reprcrash") if isinstance(longrepr, dict) else None
            return f"failed: {crash['message'].splitlines()[0]}" if crash else f"failed in {report['when']}"
    if member.lost:
        return "died"
    return "finished" if member.done else "still waiting"


def _ranks(ranks: list[int]) -> str:
    """Ranks in a sentence: "rank 2", "ranks 0, 2"."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
