"""``python -m tests.chaos``: inject faults into real stacks, and check that nothing is lost, doubled or stale."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.chaos.campaign import Campaign
from tests.chaos.faults import FAULTS
from tests.chaos.page import NAMED_TITLES, TITLES, named_rows, page, rows, summary, text_table
from tests.reaper import Reaper


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=400, help="inject at least so many")
    parser.add_argument("--outcomes", type=int, default=20_000, help="store at least so many images' outcomes")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no further run after that")
    parser.add_argument("--stacks", type=int, default=6, help="at once; every other one is a cluster")
    parser.add_argument("--only", action="append", default=[], help="faults with this in their name")
    parser.add_argument("--folder", type=Path, help="for the runs (default: a new temporary folder)")
    parser.add_argument("--write", type=Path, help="write the page there")
    options = parser.parse_args()
    os.environ["BONESCREEN_QUIET_SECONDS"] = "0"
    reaper = Reaper()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bonescreen-chaos-"))
    reaper.watch(folder)
    chosen = [one for one in FAULTS if not options.only or any(word in one.name for word in options.only)]
    began = time.monotonic()

    def is_enough(campaign: Campaign) -> bool:
        if time.monotonic() - began > 60 * options.minutes:
            return True
        return len(campaign.injections) >= int(options.faults) and campaign.outcomes >= int(options.outcomes)

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    campaign = Campaign(folder, options.seed, chosen, say)
    say(f"the run without faults is done: {len(campaign.expected)} predictions")
    began = time.monotonic()
    campaign.run(options.stacks, is_enough)
    minutes = (time.monotonic() - began) / 60
    reaper.end()
    # What the driver itself failed at may have left its disk mounted.
    for mount in [disk.mountpoint for disk in psutil.disk_partitions(all=True)]:
        if Path(mount).is_relative_to(folder.resolve()):
            subprocess.run(["umount", "--lazy", mount], check=True)
    print(f"{len(campaign.injections) / minutes:.1f} faults a minute; seed {options.seed}; folder {folder}")
    print(text_table(TITLES, rows(campaign)))
    print(text_table(NAMED_TITLES, named_rows(campaign)))
    print(summary(campaign))
    if options.write:
        command = f"python -m tests.chaos --seed {options.seed} --faults {options.faults} --outcomes {options.outcomes}"
        options.write.write_text(
            page(campaign, f"{command} --minutes {options.minutes:g} --stacks {options.stacks}", minutes)
        )
    sys.exit(any(report.violations for report in campaign.reports))


if __name__ == "__main__":
    main()
