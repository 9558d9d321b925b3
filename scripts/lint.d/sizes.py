"""A .c file has at most 1000 lines, a header 300, a function 70 (STYLE: layout).

A function may be longer if the comment above it says why: /* lint: long because ... */
"""
import re

FILE_LINES_MAX = {".c": 1000, ".h": 300}
FUNCTION_LINES_MAX = 70
EXCUSE = re.compile(r"lint: long because\s+\w")


def comment_above(lines, start):
    """The text of the comment that ends on the line above line number `start`."""
    end = index = start - 2
    if index < 0 or not lines[index].rstrip().endswith("*/"):
        return ""
    while index > 0 and "/*" not in lines[index]:
        index -= 1
    return "\n".join(lines[index:end + 1])


def check(tree):
    for suffix, limit in FILE_LINES_MAX.items():
        for path in tree.select(suffix):
            count = tree.text(path).count("\n")
            if count > limit:
                yield path, limit + 1, "%d lines; a %s file has at most %d" % (count, suffix, limit)
    for path in tree.select(".c", ".h"):
        lines = tree.text(path).split("\n")
        for function in tree.functions(path):
            count = function.end - function.open + 1
            if count > FUNCTION_LINES_MAX and not EXCUSE.search(comment_above(lines, function.start)):
                yield path, function.start, "%s() has %d lines; at most %d, or /* lint: long because ... */ " \
                    "above it" % (function.name, count, FUNCTION_LINES_MAX)
