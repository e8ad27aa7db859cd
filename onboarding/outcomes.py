"""The label: which of its values means yes. Asked for where it is not plain."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from models.errors import OnboardingError
from onboarding.words import EMPTY, FALSE, TRUE

LEAST_POSITIVES = 10  # below, nothing can be learnt or tested
FEW_POSITIVES = 200  # below, every figure is a rough one
POSITIVE = (TRUE - {"x"}) | {"positive", "pos"}
POSITIVE |= {"churn", "churned", "left", "lost", "fraud", "fraudulent", "default", "defaulted"}
POSITIVE |= {"bought", "buy", "converted", "clicked", "cancelled", "canceled"}
NEGATIVE = FALSE | {"-1", "negative", "neg"}
NEGATIVE |= {"stayed", "stay", "retained", "active", "genuine", "legit", "legitimate", "paid"}


@dataclass(frozen=True)
class Outcome:
    """Which texts of the label mean yes and no, as they stand in the source; other rows have no label yet."""

    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    positives: int
    negatives: int
    unlabelled: int
    why: str

    @property
    def labelled(self) -> int:
        """Rows whose outcome is known."""
        return self.positives + self.negatives

    @property
    def share(self) -> float:
        """The share of positives."""
        return self.positives / self.labelled


def outcome_of(
    column: str, words: Mapping[str | None, int], positive: str | None, also_missing: Sequence[str] = ()
) -> Outcome:
    """Find out which value means yes. `OnboardingError`, with the values that were found, where two are not there."""
    groups = _spellings(words, EMPTY | {"na"} | {word.lower() for word in also_missing})
    if len(groups) < 2:  # --missing 0 is said of other columns
        groups = _spellings(words, EMPTY | {"na"})
    unlabelled = sum(words.values()) - sum(words[word] for spelled in groups.values() for word in spelled)
    _two(column, groups, words, unlabelled)
    chosen, why = _positive(column, groups, positive)
    other = next(group for group in groups if group != chosen)
    counts = {group: sum(words[word] for word in spelled) for group, spelled in groups.items()}
    outcome = Outcome(
        column, tuple(groups[chosen]), tuple(groups[other]), counts[chosen], counts[other], unlabelled, why
    )
    _enough(outcome)
    return outcome


def _spellings(words: Iterable[str | None], missing: Collection[str]) -> dict[str, list[str]]:
    """Return the values as they are written, by what they are; without those that are none."""
    groups: dict[str, list[str]] = {}
    for word in words:
        if word is not None and not _is_missing(word, missing):
            groups.setdefault(word.casefold(), []).append(word)
    return groups


def _is_missing(word: str, missing: Collection[str]) -> bool:
    return word.lower() in missing or word.removesuffix(".0") in missing


def _two(column: str, groups: Mapping[str, Sequence[str]], words: Mapping[str | None, int], unlabelled: int) -> None:
    if len(groups) == 2:
        return
    often = sorted((w for ws in groups.values() for w in ws), key=lambda word: -words[word])
    shown = ", ".join(f"{word!r} ({words[word]:,} rows)" for word in often[:6]) + (", ..." if len(often) > 6 else "")
    if not groups:
        raise OnboardingError(
            f"--label is {column!r}, but it is empty in all {unlabelled:,} rows. Name another column."
        )
    if len(groups) == 1:
        raise OnboardingError(
            f"--label is {column!r}, which has one value only: {shown}. Rows of both outcomes are needed: add the "
            "others."
        )
    raise OnboardingError(
        f"--label is {column!r}, which has {len(groups):,} values: {shown}. Two are needed, yes and no: make a column "
        "that says for each row whether it is the outcome you want to predict, and name that one."
    )


def _positive(column: str, groups: Mapping[str, Sequence[str]], asked: str | None) -> tuple[str, str]:
    shown = " and ".join(repr(spelled[0]) for spelled in groups.values())
    if asked is not None:
        if asked.casefold() not in groups:
            raise OnboardingError(
                f"--positive is {asked!r}, but the values of {column!r} are {shown}. Name one of them."
            )
        return asked.casefold(), "as asked"
    for words, opposite in ((POSITIVE, False), (NEGATIVE, True)):
        found = [group for group in groups if group in words]
        if len(found) == 1:
            chosen = next(group for group in groups if group != found[0]) if opposite else found[0]
            return chosen, "the usual word"
    raise OnboardingError(
        f"The values of --label {column!r} are {shown}: which one means yes? Say it with --positive "
        + " or --positive ".join(f'"{spelled[0]}"' for spelled in groups.values())
        + "."
    )


def _enough(outcome: Outcome) -> None:
    for what, count in (("positive", outcome.positives), ("negative", outcome.negatives)):
        if count < LEAST_POSITIVES:
            raise OnboardingError(
                f"--label {outcome.column!r} has {count} {what} rows of {outcome.labelled:,}: at least "
                f"{LEAST_POSITIVES} are needed to learn and to test, and from {FEW_POSITIVES} on figures mean "
                "something. Add rows."
            )
