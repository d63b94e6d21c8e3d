"""Autobahn's cases against /echo, all of them.

    BATON_URL=http://127.0.0.1:8000 WSTEST=…/bin/wstest python3 tests/clients/autobahn.py DIRECTORY

Of groups 12 and 13 (compression) each case sends a tenth of its messages, 100: all of them take a
quarter of an hour of Python. MESSAGES=1000 sends all; CASES="12.* 13.*" runs only these.

DIRECTORY gets the reports; open its index.html in a browser. Prints a line per case, as TAP does,
and exits 1 if one failed, 2 if they could not be run.

A case passes if Autobahn finds it OK. INFORMATIONAL is no verdict: such a case only observes what
the server does where the standard leaves it free. NON-STRICT passes for the cases below only.
"""

import json
import os
import subprocess
import sys

CASES = os.environ.get("CASES", "*").split()
MESSAGES = os.environ.get("MESSAGES", "100")
# wstest, with so many messages a case.
WSTEST = """
import sys
from autobahntestsuite import case, wstest
messages = int(sys.argv.pop(1))
for one in case.Case12_X_X + case.Case13_X_X:
    assert one.COUNT == 1000
    one.COUNT = messages
wstest.run()
"""
# Case: why it may be non-strict.
NON_STRICT = {}
# What autobahntestsuite 25.10.1 holds: fewer means that some did not run.
NUMBER_OF_CASES = 517
AGENT = "baton"


def main():
    directory = os.path.abspath(sys.argv[1])
    os.makedirs(directory, exist_ok=True)
    index = os.path.join(directory, "index.json")
    if os.path.exists(index):
        os.remove(index)
    specification = os.path.join(directory, "specification.json")
    with open(specification, "w") as file:
        url = os.environ["BATON_URL"].replace("http", "ws", 1) + "/echo"
        json.dump(
            {
                "outdir": directory,
                "servers": [{"agent": AGENT, "url": url}],
                "cases": CASES,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            },
            file,
        )
    python = os.path.join(os.path.dirname(os.path.abspath(os.environ["WSTEST"])), "python")
    command = [python, "-c", WSTEST, MESSAGES, "-m", "fuzzingclient", "-s", specification]
    with open(os.path.join(directory, "wstest.log"), "w") as log:
        status = subprocess.run(command, cwd=directory, stdout=log, stderr=log, timeout=1200).returncode
    if status != 0 or not os.path.exists(index):
        print(f"wstest: exit status {status}; see {directory}/wstest.log", file=sys.stderr)
        return 2
    with open(index) as file:
        results = json.load(file)[AGENT]
    failed = 0
    by_number = sorted(results.items(), key=lambda item: [int(part) for part in item[0].split(".")])
    for number, (case, result) in enumerate(by_number, 1):
        verdicts = [result["behavior"], result["behaviorClose"]]
        good = all(
            verdict in ("OK", "INFORMATIONAL") or (verdict == "NON-STRICT" and case in NON_STRICT)
            for verdict in verdicts
        )
        failed += not good
        print(f"{'ok' if good else 'not ok'} {number} - {case} {' '.join(verdicts)}")
    if CASES == ["*"] and len(results) != NUMBER_OF_CASES:
        print(f"not ok {len(results) + 1} - {len(results)} cases ran, not {NUMBER_OF_CASES}")
        failed += 1
    return 1 if failed else 0


sys.exit(main())
