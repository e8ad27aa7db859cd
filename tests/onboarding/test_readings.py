"""What texts mean: numbers, yes and no, dates, codes. Whatever is decided is said."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import OnboardingError
from onboarding.readings import Reading, key_reading, reading_of, settled


def reading(*words: str, delimiter: str = ",", missing: tuple[str, ...] = ()) -> Reading:
    (found,) = settled([reading_of(pa.array(words), missing)], delimiter)
    return found


def read(*words: str, delimiter: str = ",") -> list[object]:
    return reading(*words, delimiter=delimiter).read(pa.array(words)).to_pylist()


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["1", "-2", "+3"], [1, -2, 3]),
        (["1.5", "2", ".5", "1e3"], [1.5, 2, 0.5, 1000]),
        (["1.0", "2.0"], [1, 2]),  # pandas' whole numbers beside missing ones
        (["1,5", "2"], [1.5, 2]),
        (["1.234,56", "7,1"], [1234.56, 7.1]),
        (["1,234.56", "12"], [1234.56, 12]),
        (["1 234,5", "12"], [1234.5, 12]),
        (["1\u202f234", "5\u00a0678"], [1234, 5678]),
        (["1'234.5", "2"], [1234.5, 2]),
        (["5%", "3.2 %"], [5, 3.2]),
        (["$ 1,234.50", "$3"], [1234.5, 3]),
        (["€1.234,00", "-€5,10"], [1234, -5.1]),
        (["12 EUR", "3 EUR"], [12, 3]),
        (["5\u00a0%", "3,2\u202f%"], [5, 3.2]),
        (["1\u00a0234,50\u00a0€", "12,00\u202f€"], [1234.5, 12]),
        (["€\u00a05", "-€\u202f6"], [5, -6]),
        (["\N{MINUS SIGN}5.1", "3"], [-5.1, 3]),
        (["(12)", "3", "(4.5)"], [-12, 3, -4.5]),
        (["($1,200.00)", "$3"], [-1200, 3]),
        (["1", "-Infinity", "#REF!", "3"], [1, None, None, 3]),
    ],
)
def test_numbers_are_read_as_people_write_them(words, numbers):
    assert read(*words) == pytest.approx(numbers)


@pytest.mark.parametrize(
    ("word", "delimiter", "number"),
    [("1,234", ",", 1234), ("1,234", ";", 1.234), ("1.234", ",", 1.234), ("1.234", ";", 1.234)],
)
def test_what_could_be_two_numbers_is_read_as_is_usual_there_and_that_is_said(word, delimiter, number):
    assert read(word, "5" + word[1:], delimiter=delimiter)[0] == number
    assert "assumed" in reading(word, "5" + word[1:], delimiter=delimiter).comment


@pytest.mark.parametrize(
    ("open_to_both", "other", "numbers"),
    [
        (["1.234", "2.345"], ["1,5", "2,25"], [1234, 2345]),
        (["1.234", "2.345"], ["1.5", "2.25"], [1.234, 2.345]),
        (["1,234", "2,345"], ["1.5", "2.25"], [1234, 2345]),
        (["1,234", "2,345"], ["1,5", "2,25"], [1.234, 2.345]),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_what_could_be_two_numbers_is_read_as_the_other_columns_are(open_to_both, other, numbers, delimiter):
    columns = [pa.array(open_to_both), pa.array(other), pa.array(["1", "2"])]  # whole numbers say nothing
    open_one, *_ = settled([reading_of(column) for column in columns], delimiter)
    assert open_one.read(columns[0]).to_pylist() == numbers
    assert "the file's other columns" in open_one.comment


@pytest.mark.parametrize("word", ["NA", "?", "-", "null", "n/a", "NaN", "None", "#N/A", "inf"])
def test_words_for_nothing_are_missing_numbers_and_are_named(word):
    assert read("1", word, "3") == [1, None, 3]
    assert repr(word) in reading("1", word, "3").comment


def test_a_word_that_is_said_to_mean_nothing_does():
    assert reading("1", "2", "kaputt").kind == "text"
    found = reading("1", "2", "kaputt", missing=("Kaputt",))
    assert found.read(pa.array(["1", "kaputt"])).to_pylist() == [1, None]


def test_what_keeps_a_column_from_being_a_number_is_said():
    assert "'abc'" in reading(*map(str, range(50)), "abc").comment


@pytest.mark.parametrize(
    "words",
    [
        ["007", "12"],  # a zero in front
        ["00501", "90210"],
        ["1234567890123456", "2"],  # more digits than a float holds
        ["5%", "3"],  # percent and plain
        ["$1", "€2"],  # two currencies
        ["1,2,3", "4"],
        ["v1", "v2"],
        ["1.234", "1,2,3"],
        ["+491701234567", "+491707654321"],  # phone numbers
        ["(1)2", "3"],
    ],
)
def test_what_only_looks_like_numbers_stays_a_text(words):
    assert reading(*words).kind == "text"
    assert read(*words) == words


def test_ten_spellings_of_yes_and_no_are_one():
    words = ["yes", "No", "Y", "n", "TRUE", "false", "1", "0", "on", "OFF", "?"]
    assert read(*words) == [True, False] * 5 + [None]
    assert "'OFF'" in reading(*words).comment


@pytest.mark.parametrize(
    ("yes", "no"), [("wahr", "falsch"), ("Vrai", "Faux"), ("sim", "não"), ("да", "нет"), ("tak", "nie"), ("oui", "NON")]
)
def test_yes_and_no_are_known_in_other_languages(yes, no):
    assert read(yes, no, yes.upper(), "") == [True, False, True, None]


def test_one_spelling_of_each_stays_as_people_write_it():
    assert read("Yes", "No") == ["Yes", "No"]
    assert read("0", "1") == [0, 1]


@pytest.mark.parametrize(
    ("words", "day"),
    [
        (["2026-11-28", "2025-01-02"], date(2026, 11, 28)),
        (["28.11.2026", "1.2.2025"], date(2026, 11, 28)),
        (["11/28/2026", "1/2/2025"], date(2026, 11, 28)),
        (["28/11/2026", "1/2/2025"], date(2026, 11, 28)),
        (["2026/11/28", "2025/1/2"], date(2026, 11, 28)),
    ],
)
def test_dates_are_read_as_people_write_them(words, day):
    found = reading(*words)
    assert (found.kind, found.read(pa.array(words))[0].as_py()) == ("date", day)
    assert found.other_form is None


def test_a_time_of_day_is_kept_and_its_zone_taken_off():
    moments = read("2026-11-28T10:30:15+02:00", "2026-11-28 10:30", "2026-11-28")
    ten_thirty = datetime(2026, 11, 28, 10, 30, tzinfo=UTC).replace(tzinfo=None)
    assert moments == [ten_thirty.replace(hour=8, second=15), ten_thirty, ten_thirty.replace(hour=0, minute=0)]


@pytest.mark.parametrize(
    ("time", "hour"),
    [
        ("12:00:00+00", 12),  # PostgreSQL
        ("12:00:00.25-05", 17),
        ("12:00:00 +0000", 12),  # Ruby
        ("12:00 -05:30", 17),
        ("12:00:00 UTC", 12),
        ("12:00Z", 12),
        ("12:00:00+02:00", 10),
    ],
)
def test_a_zone_is_read_as_programs_write_it(time, hour):
    moment, plain = read(f"2024-01-01 {time}", "2024-01-02 10:00")
    assert (moment.replace(minute=0, microsecond=0), plain) == (datetime(2024, 1, 1, hour), datetime(2024, 1, 2, 10))
    assert moment.minute == (30 if ":30" in time else 0)


@pytest.mark.parametrize("time", ["25:61", "24:00", "12:60", "12:30:60", "10:00+25:00", "13:00 PM", "0:10 AM"])
def test_an_impossible_time_is_none(time):
    assert reading(f"2024-01-01 {time}", "2024-01-02 10:00").kind == "text"


@pytest.mark.parametrize(
    ("time", "hour", "second"),
    [("12:00 AM", 0, 0), ("12:00 PM", 12, 0), ("1:00:07pm", 13, 7), ("11:00 am", 11, 0), ("9:00:02,0", 9, 2)],
)
def test_a_time_is_read_as_spreadsheets_write_it(time, hour, second):
    word = f"1/31/2024 {time}"
    assert read(word, "1/31/2024 10:00") == [datetime(2024, 1, 31, hour, 0, second), datetime(2024, 1, 31, 10)]


@pytest.mark.parametrize(
    ("values", "word", "expected"),
    [
        (pa.array([1, -999, 3]), "-999", [1, None, 3]),
        (pa.array([1.5, -999.0, 3.0], pa.float32()), "-999", [1.5, None, 3.0]),
        (pa.array([1, -999, 3]), "-999.0", [1, None, 3]),
        (pa.array([1.5, -999.9, 3.0], pa.float32()), "-999.9", [1.5, None, 3.0]),
        (pa.array([1.5, -999.9, 3.0], pa.float64()), "-999.9", [1.5, None, 3.0]),
        (pa.array([2**53, 2**53 + 1]), str(2**53), [None, 2**53 + 1]),  # that are one float64
        (pa.array([2**53, 2**53 + 1]), str(2**53 + 1), [2**53, None]),
        (pa.array([1, 2]), "1.5", [1, 2]),
        (pa.array([1, 2]), "9" * 19, [1, 2]),  # more than an int64 holds
        (pa.array([1, 2]), "1" * 5000, [1, 2]),
        (pa.array(["a", "Gone", "b"]), "gone", ["a", None, "b"]),
        (pa.array([date(1900, 1, 1), date(2026, 1, 1)]), "1900-01-01", [None, date(2026, 1, 1)]),
        (pa.array([date(1900, 2, 2), date(2026, 1, 1)]), "02/02/1900", [None, date(2026, 1, 1)]),  # however it is read
        (pa.array([datetime(1900, 1, 1), datetime(1900, 1, 1, 1)]), "1900-01-01", [None, datetime(1900, 1, 1, 1)]),
        (pa.array([True, False]), "false", [True, None]),
        (pa.array([date(1900, 1, 1)]), "0000-01-01", [date(1900, 1, 1)]),  # a year that no datetime holds
        (pa.array([1, 2]), "nothing", [1, 2]),
    ],
)
@pytest.mark.parametrize("reader", [reading_of, key_reading])
def test_a_word_that_is_said_to_mean_missing_does_whatever_the_columns_type(reader, values, word, expected):
    found = reader(values, (word,))
    assert found.read(values).to_pylist() == expected
    assert found.found == (frozenset({word}) if None in expected else frozenset())


def test_a_number_that_is_said_to_mean_missing_does_however_it_is_written():
    found, values = reading("1.5", "-999.00", "3", missing=("-999",)), pa.array(["1.5", "-999.00", "3"])
    assert found.read(values).to_pylist() == [1.5, None, 3.0]


def test_a_day_that_is_said_to_mean_missing_and_could_be_two_is_refused():
    with pytest.raises(OnboardingError, match=r"--missing '01/02/1900' could be 1900-01-02 or 1900-02-01. Write it"):
        reading_of(pa.array([date(1900, 2, 1)]), ("01/02/1900",))


def test_days_that_could_be_months_are_said():
    found = reading("01/02/2026", "03/04/2026")
    assert found.other_form is not None
    assert "d/m/Y were assumed (m/d/Y would fit too)" in found.comment


def test_no_day_of_the_calendar_is_no_date():
    assert reading("2026-02-30", "2026-01-01").kind == "text"


def test_eight_digits_are_days_only_where_many_are():
    days = [f"202601{day:02d}" for day in range(1, 29)]
    assert reading(*days).kind == "date"
    assert reading("20260101", "20260102").kind == "number"


def test_na_is_a_country_among_countries_and_missing_elsewhere():
    assert read("DE", "NA", "FR") == ["DE", "NA", "FR"]
    assert read("a", "NA", "b") == ["a", None, "b"]


def test_a_late_exception_changes_the_reading_of_all():
    assert reading(*map(str, range(5000)), "x").kind == "text"
    assert reading(*(f"{n}.5" for n in range(5000)), "?").kind == "number"


def test_words_for_nothing_in_front_do_not_hide_the_numbers():
    assert reading("-", "--", "?", *map(str, range(200))).kind == "number"


@pytest.mark.parametrize(("words", "kind"), [(["1", "22"], "number"), (["01", "2"], "text"), (["20260101"], "number")])
def test_keys_are_whole_numbers_or_texts(words, kind):
    assert key_reading(pa.array(words)).kind == kind


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e12, 1e12).map(lambda x: round(x, 3)), min_size=2, max_size=40), st.sampled_from("., "))
def test_numbers_survive_being_written_with_a_decimal_comma_and_groups(numbers, group):
    def written(number: float) -> str:
        mark = "." if group == "," else ","
        return f"{number:,.3f}".replace(".", "#").replace(",", group).replace("#", mark)

    words = sorted({*map(written, numbers), written(1234567.125)})  # one that leaves no doubt
    found = reading(*words)
    assert found.read(pa.array([written(n) for n in numbers])).to_pylist() == pytest.approx(numbers, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=8), min_size=1, max_size=30))
def test_any_text_has_a_reading_that_reads_it(words):
    found = reading(*words)
    assert len(found.read(pa.array(words))) == len(words)
