"""What a test run tells about itself."""

import os
import re
import subprocess
import sys

from tests.conftest import ROOT


def test_the_table_of_faults_ends_a_run():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-k", "test_growth_is_noticed"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^all +1 +1 +0 +0$", done.stdout, re.MULTILINE)
