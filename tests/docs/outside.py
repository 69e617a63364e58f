#!/usr/bin/env python3
"""A preprocessor of mdBook: links from a page to files that are not in the book, such as sources, become plain text with the
file's path. They work where the pages are read in the repository; on a site they would lead nowhere.

Called by `mdbook build` (book.toml). Python's standard library alone.
"""

import json
import posixpath
import re
import sys

LINK = re.compile(r"\[((?:[^\[\]]|\\.)*)\]\((\.\./[^)\s#]*)(?:#[^)\s]*)?\)")


def without_outside(text, page):
    def plain(link):
        words, target = link[1], posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link[2]))
        if target.startswith("docs/"):
            return link[0]
        return words if words.strip("`/") == target.strip("/") else f"{words} (`{target}`)"

    return LINK.sub(plain, text)


def walk(part):
    """Chapters lie in each other; how, depends on the version of mdBook."""
    if isinstance(part, dict):
        if isinstance(part.get("content"), str) and part.get("path"):
            part["content"] = without_outside(part["content"], part["path"])
        part = part.values()
    elif not isinstance(part, list):
        return
    for inner in part:
        walk(inner)


if sys.argv[1:2] == ["supports"]:
    sys.exit(0 if sys.argv[2] == "html" else 1)
_, book = json.load(sys.stdin)
walk(book)
json.dump(book, sys.stdout)
