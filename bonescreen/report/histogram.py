"""The histogram of a run's scores, as SVG that takes its colours from the page."""

from collections.abc import Sequence

from markupsafe import Markup

from db.report_queries import ScoreBin

WIDTH, HEIGHT = 640, 210
LEFT, RIGHT, TOP, BOTTOM = 12, 12, 26, 40
LEAST = 2
"""Height of a bar of few studies, pixels, so that it can be seen beside one of many."""


def draw_histogram(bins: Sequence[ScoreBin], threshold: float) -> Markup:
    """Draw studies by score: those not flagged below the flagged ones, and a line at the study threshold."""
    most = max((each.flagged + each.others for each in bins), default=0) or 1
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    base = float(TOP + height)

    def x(score: float) -> float:
        return LEFT + score * width

    parts = []
    for each in bins:
        top = base
        for number, kind in ((each.others, "others"), (each.flagged, "flagged")):
            if number:
                tall = max(number / most * height, LEAST)
                top -= tall
                parts.append(
                    f'<rect class="{kind}" x="{x(each.low) + 1:.1f}" y="{top:.1f}" '
                    f'width="{x(each.high) - x(each.low) - 2:.1f}" height="{tall:.1f}"/>'
                )
        total = each.flagged + each.others
        if total:
            middle = (x(each.low) + x(each.high)) / 2
            parts.append(f'<text x="{middle:.1f}" y="{top - 4:.1f}" text-anchor="middle">{_short(total)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    for tenth in range(0, 11, 2):
        parts.append(f'<text x="{x(tenth / 10):.1f}" y="{base + 15}" text-anchor="middle">{tenth / 10:g}</text>')
    parts.append(f'<text x="{LEFT + width / 2}" y="{base + 33}" text-anchor="middle">score of a study</text>')
    line = x(threshold)
    parts.append(f'<line class="threshold" x1="{line:.1f}" x2="{line:.1f}" y1="{TOP - 8}" y2="{base}"/>')
    anchor, offset = ("start", 5) if threshold < 0.6 else ("end", -5)
    parts.append(
        f'<text class="threshold" x="{line + offset:.1f}" y="{TOP - 12}" text-anchor="{anchor}">'
        f"study threshold {threshold:.3f}</text>"
    )
    said = f"Histogram of {sum(each.flagged + each.others for each in bins):,} scores"
    # Only numbers are in the parts.
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">{"".join(parts)}</svg>')  # noqa: S704


def _short(number: int) -> str:
    """Write a number in at most four characters and a letter, as bars are narrow."""
    if number < 10_000:
        return str(number)
    return f"{number / 1e3:.0f}k" if number < 1_000_000 else f"{number / 1e6:.1f}M"
