"""No file names a place of the machine that it was written on."""
import re

# Absolute paths only, below a build machine's home or work folder.
PLACE = re.compile(r"(?<![\w.~*})\]-])/(?:work|root)/")


def check(tree):
    for path in tree.paths:
        text = tree.text(path)
        if "\0" in text[:4096]:
            continue
        for match in PLACE.finditer(text):
            yield path, tree.line(path, match.start()), "names %s" % text[match.start():].split()[0][:60]
