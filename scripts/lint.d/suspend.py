"""Only functions whose name ends in _co call functions that may suspend (STYLE: `_co`).

Passing such a function as a pointer, to sl_co_spawn() for instance, is no call. A macro that calls one ends in _co
or _CO itself, and is looked at like a function.
"""
import re

CALL = re.compile(r"\b(\w+_(?:co|CO))\s*\(")
CALL_THROUGH_POINTER = re.compile(r"(?:->|\.)\s*(\w+_co)\s*\)\s*\(")
MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)((?:\\\n|[^\n])*)", re.MULTILINE)


def may_suspend(name):
    return name.endswith(("_co", "_CO"))


def calls(text):
    for pattern in (CALL, CALL_THROUGH_POINTER):
        for match in pattern.finditer(text):
            yield match.start(1), match.group(1)


def check(tree):
    for path in tree.select(".c", ".h"):
        for function in tree.functions(path):
            if may_suspend(function.name):
                continue
            for offset, name in calls(function.body):
                yield path, function.open + function.body.count("\n", 0, offset), \
                    "%s() calls %s(), which may suspend: its name must end in _co" % (function.name, name)
        code = tree.code(path)
        for macro in MACRO.finditer(code):
            if not may_suspend(macro.group(1)):
                for offset, name in calls(macro.group(2)):
                    yield path, tree.line(path, macro.start(2) + offset), \
                        "macro %s calls %s(), which may suspend: its name must end in _CO" % (
                            macro.group(1), name)
