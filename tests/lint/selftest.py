#!/usr/bin/env python3
"""Goal: every lint check flags what it should, at its line, and nothing else.

Method: tests/lint/CHECK/ is a small tree with bad and good samples; `expected` lists path:line of what is bad. The
real scripts/lint runs over it with that check alone. A check without samples, or samples without a bad one, fail.
"""
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
LINT = os.path.join(HERE, "..", "..", "scripts", "lint")
CHECKS = os.path.join(HERE, "..", "..", "scripts", "lint.d")


def problems(check):
    try:
        with open(os.path.join(HERE, check, "expected"), encoding="utf-8") as file:
            expected = {line.strip() for line in file if line.strip()}
    except OSError as error:
        return ["no samples: %s" % error]
    if not expected:
        return ["expects no finding, so it proves nothing"]
    done = subprocess.run([sys.executable, LINT, "--root", os.path.join(HERE, check), check],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    found = set(re.findall(r"^(\S+:\d+): %s: " % check, done.stdout, re.MULTILINE))
    wrong = ["not flagged: %s" % place for place in sorted(expected - found)]
    wrong += ["wrongly flagged: %s" % place for place in sorted(found - expected)]
    if done.returncode != 1:
        wrong.append("exit status %d, not 1" % done.returncode)
    return [message + "\n" + done.stdout for message in wrong[:1]] + wrong[1:]


def main():
    failed = 0
    checks = sorted(name[:-3] for name in os.listdir(CHECKS) if name.endswith(".py"))
    for check in checks:
        wrong = problems(check)
        failed += bool(wrong)
        print("%s %s" % ("FAIL" if wrong else "ok  ", check))
        for message in wrong:
            print("     " + message)
    return 1 if failed or not checks else 0


if __name__ == "__main__":
    sys.exit(main())
