"""A short campaign, of the faults that tests/faults does not have."""

from pathlib import Path

from tests.chaos.campaign import Campaign
from tests.chaos.faults import FAULTS, deck
from tests.chaos.page import page, rows
from tests.chaos.screening import Kind
from xray.network.package import ModelPackage

SHORT = (
    "FLUSHALL",
    "messages dropped",
    "malformed and forged",
    "run cancelled",
    "connections to the database",
)


def test_faults_on_either_stack_lose_double_and_falsify_nothing_and_each_run_ends_by_itself(
    tmp_path: Path, tiny_package: ModelPackage
) -> None:
    chosen = [one for one in FAULTS if one.name.startswith(SHORT)]
    said: list[str] = []
    folder, package = tmp_path / "chaos", tiny_package.path
    campaign = Campaign(folder, 9, chosen, said.append, images=120, package=package, faults_per_run=4)
    campaign.run(2, lambda campaign: len(campaign.reports) > 0 or len(said) > 0)
    print(*said, sep="\n")
    assert [one for report in campaign.reports for one in report.violations] == []
    assert {report.kind for report in campaign.reports} == set(Kind)
    assert campaign.outcomes == 2 * 120
    assert all(report.injections for report in campaign.reports)
    text = page(campaign, "python -m tests.chaos", 1.0)
    assert all(f"| {row[0]} | {row[1]} | 0 | 0 | 0 | 0 |" in text for row in rows(campaign))


def test_the_same_seed_draws_the_same_faults_and_another_seed_others() -> None:
    for kind in Kind:
        assert deck(kind, 1, FAULTS) == deck(kind, 1, FAULTS)
        assert deck(kind, 1, FAULTS) != deck(kind, 2, FAULTS)
        assert {one.name for one in deck(kind, 1, FAULTS)} == {one.name for one in FAULTS if kind in one.kinds}
