"""On the data path payload is copied by sl_copy() alone, which counts it (STYLE: ownership of buffers).

A copy of something small that is no payload, a capsule or a record, says so behind it:
    memcpy(&header, bytes, sizeof header); /* header: of the frame, 32 bytes */
"""
import re

FOLDERS = ("fabric", "target", "store", "gateway", "comch", "frontend")
COPY = re.compile(r"\b((?:__builtin_)?(?:w?mem(?:cpy|move|pcpy)|memccpy)|bcopy)\s*\(")
REASON = re.compile(r"/\*\s*header:\s*\w")


def check(tree):
    for folder in FOLDERS:
        for path in tree.select(".c", ".h", under="src/%s/" % folder):
            code, lines = tree.code(path), tree.text(path).split("\n")
            for match in COPY.finditer(code):
                first = tree.line(path, match.start())
                end = code.find(";", match.end())
                last = tree.line(path, end) if end >= 0 else first
                if not any(REASON.search(line) for line in lines[first - 1:last]):
                    yield path, first, "%s(): payload goes by sl_copy(); for metadata say " \
                        "/* header: what */ on the line" % match.group(1)
