"""Words that mean the same in every file, in lower case: no value, yes, and no."""

EMPTY = frozenset({"", "null", "nan", "n/a", "#n/a", "<na>", "\\n", "?"})  # never a value
NO_NUMBER = EMPTY | {
    "na",
    "none",
    "nil",
    "-",
    "--",
    ".",
    "missing",
    "unknown",
    "(null)",
    "#value!",
    "#div/0!",
    "#num!",
    "#ref!",
    "#name?",
    "#null!",
}
NO_NUMBER |= {f"{sign}{word}" for sign in ("", "+", "-") for word in ("inf", "infinity", "nan")}

TRUE = frozenset({"yes", "y", "true", "t", "on", "1", "1.0", "ja", "j", "oui", "si", "sí", "x"})
TRUE |= {"wahr", "vrai", "vero", "verdadero", "verdadeiro", "prawda", "sim", "tak", "да", "истина", "是", "はい"}
FALSE = frozenset({"no", "n", "false", "f", "off", "0", "0.0", "nein", "non"})
FALSE |= {"falsch", "faux", "falso", "fałsz", "nee", "não", "nie", "нет", "ложь", "否", "いいえ"}
