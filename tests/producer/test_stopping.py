"""A feeder ends soon after SIGTERM, whatever it waits for."""

import os
import signal
import subprocess
import sys

import pytest

# The C library's lookup cannot be interrupted, and takes 20 s and more when no server of names answers.
LOOKUP_THAT_DOES_NOT_END = """
import socket, sys, time

def look_up(*_, **__):
    print("looking up", flush=True)
    time.sleep(3600)

socket.getaddrinfo = look_up
from producer.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_feeder_ends_within_its_time_while_the_lookup_of_the_database_s_name_does_not_end(number: int) -> None:
    environ = {
        **os.environ,
        "BONESCREEN_BROKER_URL": "redis://broker:6379/0",
        "BONESCREEN_DATABASE_URL": "postgresql://bonescreen@database/bonescreen",
    }
    command = [sys.executable, "-c", LOOKUP_THAT_DOES_NOT_END]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as feeder:
        try:
            assert feeder.stdout is not None
            assert feeder.stdout.readline() == "looking up\n"
            feeder.send_signal(number)
            _, printed = feeder.communicate(timeout=60)
        finally:
            feeder.kill()
    assert feeder.returncode == 0
    assert "ended in the middle of a round" in printed
