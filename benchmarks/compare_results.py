"""Compare what two screenings of one archive have stored: every prediction, study result and failure.

    BONESCREEN_HOME=/tmp/before bonescreen screen ARCHIVE       # with one version of the code
    BONESCREEN_HOME=/tmp/after bonescreen screen ARCHIVE        # with a different version
    python -m benchmarks.compare_results /tmp/before/bonescreen.db /tmp/after/bonescreen.db

Logits, probabilities, CAMs and scores must be equal to the bit, so both screenings have to run on one machine. The text
that explains a failure may be worded differently; its reason may not. The exit code is 1 if anything differs.
"""

import argparse
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

Rows = dict[tuple[object, ...], tuple[object, ...]]

QUERIES = {
    "predictions": """
        SELECT archives.name, images.path, models.digest, models.precision,
               hex(contents.sha256), predictions.logit, predictions.probability, hex(predictions.cam),
               predictions.cam_rows, predictions.cam_columns
        FROM outcomes
        JOIN images ON images.id = outcomes.image_id AND images.current
        JOIN archives ON archives.id = images.archive_id
        JOIN runs ON runs.id = outcomes.run_id
        JOIN models ON models.id = runs.model_id
        JOIN contents ON contents.id = outcomes.content_id
        JOIN predictions ON predictions.content_id = contents.id AND predictions.model_id = models.id""",
    "study results": """
        SELECT archives.name, studies.key, models.digest, models.precision,
               study_results.status, study_results.score, study_results.flagged, study_results.images,
               study_results.failed, studies.body_parts, studies.human_label
        FROM study_results
        JOIN studies ON studies.id = study_results.study_id
        JOIN archives ON archives.id = studies.archive_id
        JOIN runs ON runs.id = study_results.run_id
        JOIN models ON models.id = runs.model_id""",
    "failures": """
        SELECT archives.name, images.path, models.digest, models.precision, outcomes.reason, outcomes.attempts
        FROM outcomes
        JOIN images ON images.id = outcomes.image_id AND images.current
        JOIN archives ON archives.id = images.archive_id
        JOIN runs ON runs.id = outcomes.run_id
        JOIN models ON models.id = runs.model_id
        WHERE outcomes.reason IS NOT NULL""",
}
KEY_COLUMNS = 4


def main() -> None:
    """Compare two databases and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, help="an SQLite database of bonescreen")
    parser.add_argument("after", type=Path, help="the other one")
    chosen = parser.parse_args()
    before, after = read_rows(chosen.before), read_rows(chosen.after)
    different = sum(print_differences(name, before[name], after[name]) for name in QUERIES)
    sys.exit(1 if different or not before["predictions"] else 0)


def read_rows(database: Path) -> Mapping[str, Rows]:
    """Read the rows to compare, each by archive, path or study key, and model version."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return {
            name: {row[:KEY_COLUMNS]: row[KEY_COLUMNS:] for row in connection.execute(query)}
            for name, query in QUERIES.items()
        }


def print_differences(name: str, before: Rows, after: Rows) -> int:
    """Print how many rows are equal and the first that are not; return how many are not."""
    different = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    print(f"{name}: {len(before):,} before, {len(after):,} after, {len(different):,} different")
    for key in different[:10]:
        pairs = zip(before.get(key, ()), after.get(key, ()), strict=False)
        changed = ", ".join(f"{old!r:.40} -> {new!r:.40}" for old, new in pairs if old != new)
        print(f"  {key[1]}: {changed or ('only after' if key in after else 'only before')}")
    return len(different)


if __name__ == "__main__":
    main()
