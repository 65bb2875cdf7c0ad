"""The numbers of a report, as JSON."""

from collections.abc import Sequence
from typing import Any

from training.seeing.captions import Report, picture_name
from training.seeing.check import Check
from training.seeing.look import FilmSight, grad_cam_scale
from xray.vocabulary import RESEARCH_NOTICE


def report_numbers(report: Report) -> dict[str, Any]:
    """Return all numbers of a report, ready for JSON."""
    card = report.package.card
    return {
        "notice": RESEARCH_NOTICE,
        "model": {"name": card.name, "version": card.version, "digest": report.package.digest},
        "films": [_film_numbers(number, sight, report) for number, sight in enumerate(report.sights, start=1)],
        "unread": dict(report.unread),
        "check": _check_numbers(report.check, report.sights) if report.check else None,
    }


def _film_numbers(number: int, sight: FilmSight, report: Report) -> dict[str, Any]:
    layers = [
        {
            "layer": seen.layer.name,
            "kind": seen.layer.kind,
            "shape": [seen.layer.height, seen.layer.width, seen.layer.channels],
            "picture": picture_name(number, sight, seen),
            "grad_cam": {"least": float(seen.grad_cam.min()), "greatest": float(seen.grad_cam.max())},
            "grad_cam_scale": grad_cam_scale(seen.layer, report.sights, report.package.card),
            "channels": [
                {"channel": int(channel), "standard_deviation": float(spread)}
                for channel, spread in zip(seen.channels.numbers, seen.channels.spreads, strict=True)
            ],
        }
        for seen in sight.layers
    ]
    return {"image": sight.film.name, "logit": sight.logit, "probability": sight.probability, "layers": layers}


def _check_numbers(check: Check, sights: Sequence[FilmSight]) -> dict[str, Any]:
    cascade = check.cascade
    names = ("deletion", "deletion_random", "insertion", "insertion_random")
    return {
        "seed": check.seed,
        "randomised": {
            "verdict": cascade.verdict,
            "draws": cascade.draws,
            "films_with_a_map": int(cascade.mapped.sum()),
            "left": cascade.left,
            "stages": [
                {
                    "randomised_down_to": stage,
                    "rank_correlation": correlation,
                    "rank_correlation_of_draws": cascade.rank_correlations[:, place].mean(axis=1).tolist(),
                    "ssim": ssim,
                }
                for place, (stage, correlation, ssim) in enumerate(cascade.means)
            ],
        },
        "deletion_insertion": {
            "verdict": check.verdict,
            "mean_areas": dict(zip(names, check.areas.mean(axis=0).tolist(), strict=True)),
            "films": [
                {"image": sight.film.name, **dict(zip(names, areas, strict=True))}
                for sight, areas in zip(sights, check.areas.tolist(), strict=True)
            ],
        },
    }
