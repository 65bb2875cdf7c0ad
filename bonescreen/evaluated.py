"""An evaluation as the terminal shows it."""

from typing import TYPE_CHECKING

from bonescreen.show import count, notice, print_table, say

if TYPE_CHECKING:
    from training.compare import Difference
    from training.evaluate import Level
    from training.report.report import Comparison, Report
    from training.seen import Seen

TITLES = ("AUROC", "average precision", "sensitivity", "specificity", "accuracy", "kappa")


def warn_of_seen(report: "Report") -> None:
    """Say on standard error what the numbers are worth, unless the models have surely not seen the images."""
    _warn("", report.seen)
    if report.comparison is None:
        return
    name = report.names[1]
    if report.comparison.seen is None:
        notice(f"Whether {name} has seen these images is not known.")
    else:
        _warn(f"{name}: ", report.comparison.seen)


def _warn(name: str, seen: "Seen") -> None:
    from training.seen import Verdict

    if seen.verdict is not Verdict.UNSEEN:
        notice(f"{'' if seen.verdict is Verdict.UNKNOWN else 'WARNING: '}{name}{seen.text}")


def print_evaluation(report: "Report") -> None:
    """Print the tables: images, studies where they are not single images, what is out of scope, the comparison."""
    evaluation = report.evaluation
    print_level("images", evaluation.images)
    if evaluation.studies_repeat_images:
        say("Each study has one image, so the numbers per study are these.")
    else:
        print_level("studies", evaluation.studies)
    for population in evaluation.out_of_scope:
        say(f"Out of scope, and in no number above: {count(population.n, 'image')} of {population.name}")
    if report.comparison is not None:
        _print_comparison(" minus ".join(report.names), report.comparison)


def print_level(rows: str, level: "Level") -> None:
    """Print one table for each threshold, then what is missing in it and why."""
    from training.plots import estimate_text

    for index, threshold in enumerate(level.thresholds):
        say(f"Per {'image' if rows == 'images' else 'study'} at {threshold.value:.3f} ({threshold.chosen})", "bold")
        table = []
        for population in level.populations:
            at = population.at[index]
            ranking = (population.auroc, population.average_precision)
            cells = map(estimate_text, (*ranking, at.sensitivity, at.specificity, at.accuracy, at.kappa))
            table.append((population.name, f"{population.n:,}", f"{population.positives:,}", *cells))
        print_table((rows, " n", " positive", *(f" {title}" for title in TITLES)), table)
        for population in level.populations:
            if population.lacks and not index:
                say(f"{population.name}: {population.lacks}", "dim")
        say("")


def _print_comparison(title: str, comparison: "Comparison") -> None:
    say(title, "bold")
    titles = ("", "measure", " difference", " 95 % interval", " p")
    rows = [
        (level, d.measure.replace("_", " "), f"{d.difference:+.3f}", _interval(d), f"{d.p:.3f}")
        for level, differences in (("images", comparison.images), ("studies", comparison.studies))
        for d in differences
    ]
    if rows:
        print_table(titles, rows)
    if comparison.lacks:
        say(comparison.lacks)


def _interval(difference: "Difference") -> str:
    return "no interval" if difference.low is None else f"{difference.low:+.3f} to {difference.high:+.3f}"
