#!/usr/bin/env python3
"""Goal: a man page lists exactly the options that its program has.

Method: PROGRAM --help is asked; every --option in it must have an entry in the page (or in one of the pages that it
refers to), and every entry of the page must be in --help.

    manual_test.py PROGRAM [+COMMAND ...] PAGE [PAGE REFERRED TO ...]

A +COMMAND ("+fabric list") is one of the program's: the page has the options of all that are named.
"""
import re
import subprocess
import sys


def of_help(program, words):
    done = subprocess.run([program, *words, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20)
    if done.returncode != 0:
        sys.exit("%s --help ends with %d:\n%s" % (program, done.returncode, done.stdout))
    # Entries begin a line; the explanation of another option may name one too.
    entries = re.findall(r"^\s*(?:-\w,?\s+)?--([a-z][a-z0-9-]*)", done.stdout, re.MULTILINE)
    return set(entries)


def of_page(page):
    with open(page, encoding="utf-8") as file:
        items = [line for line in file if line.startswith(".It Fl")]
    return {name for line in items for name in re.findall(r"(?:^\.It Fl|,(?: Fl)?) -([a-z][a-z0-9-]*)", line)}


def main():
    program = sys.argv[1]
    commands = [argument[1:].split() for argument in sys.argv[2:] if argument.startswith("+")] or [[]]
    page, *others = [argument for argument in sys.argv[2:] if not argument.startswith("+")]
    asked, written = set().union(*[of_help(program, words) for words in commands]), of_page(page)
    allowed = written.union(*[of_page(other) for other in others])
    wrong = ["--%s is in --help but in no page" % name for name in sorted(asked - allowed)]
    wrong += ["--%s is in %s but not in --help" % (name, page) for name in sorted(written - asked)]
    if len(asked) < 2:
        wrong.append("--help shows %d options: is this a program of ours?" % len(asked))
    print("\n".join(wrong) or "%d options, all explained" % len(asked))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
