"""Links in the documents lead to files that are there."""
import os
import re

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def check(tree):
    for path in tree.select(".md"):
        text = FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), tree.text(path))
        for match in LINK.finditer(text):
            target = match.group(1)
            if re.match(r"[a-z]+:", target):
                continue
            if not os.path.exists(os.path.join(tree.root, os.path.dirname(path), target)):
                yield path, tree.line(path, match.start()), "leads nowhere: %s" % target
