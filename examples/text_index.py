"""Build a ranked text index on four engines that keep their part of it, and search it.

The documents are dealt over the engines once; each builds the index of its own and keeps it.
A search is sent to all of them, and the best answers of each are merged here.  Ranking is
BM25 (Robertson and Zaragoza 2009), with document frequencies of the whole collection.

    python examples/text_index.py memory view
    python examples/text_index.py --folder ~/papers --suffix .txt gradient descent

Exit codes: 0 equal to a search without engines, 1 not, 2 nothing to read.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import ipclusterz as ipp

Document = tuple[str, str]
Answer = tuple[float, str]

K, B = 1.5, 0.75


class Index:
    """An inverted index of some documents, and what ranking needs to know of all."""

    def __init__(self, documents: list[Document]) -> None:
        import re

        word = re.compile(r"[a-z]{2,}")
        self.counts: dict[str, dict[str, int]] = {}
        self.lengths: dict[str, int] = {}
        for name, text in documents:
            words = word.findall(text.lower())
            self.lengths[name] = len(words)
            for each in words:
                found = self.counts.setdefault(each, {})
                found[name] = found.get(name, 0) + 1

    def frequencies(self, words: list[str]) -> tuple[int, int, dict[str, int]]:
        """Return the number of documents, of words in them, and of documents with each."""
        having = {word: len(self.counts.get(word, {})) for word in words}
        return len(self.lengths), sum(self.lengths.values()), having

    def search(
        self, words: list[str], documents: int, total: int, having: dict[str, int], best: int
    ) -> list[Answer]:
        """Return the best answers among these documents, best first."""
        import heapq
        import math

        mean = total / max(documents, 1)
        scores: dict[str, float] = {}
        for word in words:
            rare = math.log(1 + (documents - having[word] + 0.5) / (having[word] + 0.5))
            for name, count in self.counts.get(word, {}).items():
                norm = K * (1 - B + B * self.lengths[name] / mean)
                scores[name] = scores.get(name, 0.0) + rare * count * (K + 1) / (count + norm)
        ranked = ((round(score, 9), name) for name, score in scores.items())
        return heapq.nlargest(best, ranked)


def read(folder: Path, suffix: str, limit: int) -> list[Document]:
    """Return the documents below a folder, by name."""
    paths = sorted(path for path in folder.rglob(f"*{suffix}") if path.is_file())[:limit]
    return [
        (str(path.relative_to(folder)), path.read_text("utf-8", "replace")) for path in paths
    ]


def search_engines(view: ipp.DirectView, words: list[str], best: int) -> list[Answer]:
    """Search the parts that the engines of ``view`` keep as ``index``."""
    index = ipp.Reference("index")
    parts = view.apply_sync(lambda i, w: i.frequencies(w), index, words)
    documents, total = sum(p[0] for p in parts), sum(p[1] for p in parts)
    having: Counter[str] = Counter()
    for part in parts:
        having.update(part[2])
    all_having = {word: having[word] for word in words}
    answers = view.apply_sync(
        lambda i, *facts: i.search(*facts), index, words, documents, total, all_having, best
    )
    return sorted((answer for part in answers for answer in part), reverse=True)[:best]


def main(arguments: list[str] | None = None) -> int:
    """Index, search, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", nargs="*", default=["buffer", "protocol"])
    parser.add_argument("-n", type=int, default=4, help="engines (default: 4)")
    parser.add_argument("--folder", default=sysconfig.get_paths()["stdlib"])
    parser.add_argument("--suffix", default=".py")
    parser.add_argument("--limit", type=int, default=400, help="documents (default: 400)")
    parser.add_argument("--best", type=int, default=8, help="answers shown (default: 8)")
    options = parser.parse_args(arguments)
    words = [word.lower() for word in options.words]
    documents = read(Path(options.folder).expanduser(), options.suffix, options.limit)
    if not documents:
        print(f"no *{options.suffix} below {options.folder}", file=sys.stderr)
        return 2
    with ipp.Cluster(n=options.n) as rc:
        view = rc[:]
        view.scatter("documents", documents, block=True)
        view.push({"Index": Index}, block=True)
        view.execute("index = Index(documents)", block=True)
        found = search_engines(view, words, options.best)
    for score, name in found:
        print(f"{score:8.3f}  {name}")
    whole = Index(documents)
    alone = whole.search(words, *whole.frequencies(words), options.best)
    same = found == alone
    print(
        f"{len(documents)} documents; {'equal to' if same else 'NOT'} a search without engines"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
