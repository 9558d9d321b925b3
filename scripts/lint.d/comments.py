"""Public functions are explained in their header, and a file says first what it is for (STYLE: comments).

A group of prototypes without a blank line between them may share one comment, above or among them; a comment that
stands alone above the group counts. internal.h and private.h are the folder's own business.
"""
import re

PROTOTYPE = re.compile(r"^(?!typedef\b|_Static_assert\b|#)[A-Za-z_][^;{}()]*?\b(\w+)\s*\([^;{}]*\)"
                       r"(?:\s*__attribute__\s*\(\(.*?\)\))*\s*;", re.MULTILINE | re.DOTALL)


def check(tree):
    for path in tree.select(".h", under="src/") + tree.select(".h", under="include/"):
        if path.endswith(("/internal.h", "/private.h")):
            continue
        text, code = tree.text(path), tree.code(path)
        for match in PROTOTYPE.finditer(code):
            # A line above that says nothing ends the group.
            begin = text.rfind("\n\n", 0, match.start())
            begin = 0 if begin < 0 else begin + 2
            end = text.find("\n\n", match.end())
            group = text[begin:end if end >= 0 else len(text)]
            before = text[:begin].rstrip()
            if "/*" in group or before.endswith("*/"):
                continue
            yield path, tree.line(path, match.start(1)), "%s() is not explained" % match.group(1)
    for path in tree.select(".c", ".h"):
        if not re.match(r"\s*(?:/\*|//)", tree.text(path)):
            yield path, 1, "does not open with a comment that says what the file is for"
