"""The table at the end of a test run: how many faults were tried and survived; hooks of `tests/conftest.py`."""

from collections import Counter
from pathlib import Path

TITLES = {
    "test_corpus": "malformed input",
    "test_disk": "full disks and vanished folders",
    "test_kill": "kills",
    "test_numbers": "degenerate numbers",
    "test_properties": "properties of metrics",
    "test_surroundings": "odd surroundings",
    "test_windows": "what Windows does otherwise, simulated",
}
results = {}  # {kind of fault: Counter of outcomes}


def pytest_runtest_logreport(report):
    """Count a test once: when it ran, or when it failed or was skipped before it could."""
    if "tests/faults/" not in report.nodeid or (report.when != "call" and report.passed):
        return
    told = dict(report.user_properties)
    stem = Path(report.nodeid.split("::")[0]).stem
    kind, count = told.get("fault", TITLES.get(stem, stem)), told.get("faults", 1)
    results.setdefault(kind, Counter())[report.outcome] += count


def pytest_terminal_summary(terminalreporter):
    if not results:
        return
    width = max(map(len, results))
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'':{width}}  tried  survived  lost  not tried here")
    total = Counter()
    for kind, outcomes in sorted(results.items()):
        total.update(outcomes)
        terminalreporter.write_line(line(kind, outcomes, width))
    terminalreporter.write_line(line("all", total, width))


def line(kind, outcomes, width):
    tried = outcomes["passed"] + outcomes["failed"]
    return f"{kind:{width}}  {tried:5}  {outcomes['passed']:8}  {outcomes['failed']:4}  {outcomes['skipped']:14}"
