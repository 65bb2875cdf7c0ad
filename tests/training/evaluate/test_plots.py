"""Plots of an evaluation."""

from tests.training.evaluate.predicted import predicted
from training.evaluate.evaluation import evaluate
from training.evaluate.plots import confusion_figure
from training.report_page import figure_png
from xray.network.card import Threshold


def test_a_finding_with_dollar_signs_is_drawn_as_text_and_not_as_a_formula() -> None:
    half = [Threshold(0.5, "for the test")]
    (everyone, *_) = evaluate(predicted(), half, half, repeats=10).images.populations
    figure = confusion_figure(everyone.at[0], r"$\frac$")
    assert figure.axes[0].get_ylabel() == r"human label ($\frac$)"
    assert figure_png(figure).startswith(b"\x89PNG")
