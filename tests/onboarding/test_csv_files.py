"""Files as they come: encodings, delimiters, quotes; and what cannot be read is refused with its row."""

import csv
import gzip

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import OnboardingError
from onboarding.csv_files import CsvRows, sniff
from tests.onboarding.tables import write_csv

TABLE = {"id": ["1", "2", "3"], "Größe": ["a;b", 'say "hi"', "two\nlines"], "x": ["1,5", "", "|"]}


def rows_of(path) -> dict[str, list[str]]:
    form = sniff(path)
    table = pa.Table.from_batches(CsvRows(path, form).batches()).drop_columns(["number"])
    return dict(zip(form.header, (column.to_pylist() for column in table.columns), strict=True))


def numbers_of(path) -> list[int]:
    batches = CsvRows(path, sniff(path)).batches()
    return [number for batch in batches for number in batch["number"].to_pylist()]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_encoding_and_delimiter_is_found(tmp_path, encoding, delimiter):
    assert rows_of(write_csv(tmp_path / "t.csv", TABLE, delimiter, encoding)) == TABLE


def test_windows_lines_and_quotes_everywhere_are_read(tmp_path):
    assert rows_of(write_csv(tmp_path / "t.csv", TABLE, lineterminator="\r\n", quoting=1)) == TABLE


def test_a_packed_file_is_read(tmp_path):
    plain = write_csv(tmp_path / "t.csv", TABLE)
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert rows_of(packed) == TABLE


def test_what_is_said_of_a_file_names_encoding_and_separator(tmp_path):
    assert sniff(write_csv(tmp_path / "t.csv", TABLE, ";", "cp1252")).described == "cp1252, separated by semicolon"


def test_quotes_within_a_field_are_letters(tmp_path):
    (tmp_path / "t.csv").write_text('id,size\n1,5" pipe\n2,3 cm\n')
    assert rows_of(tmp_path / "t.csv")["size"] == ['5" pipe', "3 cm"]


@pytest.mark.parametrize(
    "content",
    [
        b"\n\nid,x\n1,2\n3,4\n",
        b" \r\n,,\r\nid,x\r\n1,2\r\n3,4\r\n",
        b"sep=;\r\nid;x\r\n1;2\r\n3;4\r\n",
        b'\xef\xbb\xbf"sep=,"\n\nid,x\n1,2\n3,4\n',
        "SEP=\t\nid\tx\n1\t2\n3\t4\n".encode("utf-16"),
        b"sep=^\nid^x\n1^2\n3^4\n",
        b"\rid,x\r1,2\r3,4\r",  # as old Macs end lines
        b"id,x\n1,2\n  \n3,4\n \n",
        b"id;x\n1;2\n;\n3;4\n;\n ; \n",  # as Excel ends a table that was longer once
        b'id,x\n"",""\n1,2\n\n3,4\n\n\n',
    ],
)
def test_lines_that_are_no_rows_are_not_read_as_such(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    assert rows_of(tmp_path / "t.csv") == {"id": ["1", "3"], "x": ["2", "4"]}


def test_blanks_in_a_file_of_one_column_are_no_rows(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"id\n1\n\n  \n3\n \n")
    assert rows_of(tmp_path / "t.csv") == {"id": ["1", "3"]}


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        (b"id,x\n1,2\n3,4\n", [2, 3]),
        (b"\n\nid,x\n1,2\n\n  \n,\n3,4\n,5\n", [4, 8, 9]),
        (b'id,x\n1,"a\nb"\n3,4\n', [2, 3]),  # a row of two lines is one
        (b"id\n1\n\n  \n3\n", [2, 5]),
    ],
)
def test_rows_are_numbered_as_a_spreadsheet_does_with_those_that_are_none(tmp_path, content, numbers):
    (tmp_path / "t.csv").write_bytes(content)
    assert numbers_of(tmp_path / "t.csv") == numbers


def test_rows_are_numbered_over_all_blocks_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("onboarding.csv_files.BLOCK", 64)
    blanks = {7: "\n", 50: " \n", 51: ",\n", 90: "  \n"}  # behind those rows
    lines = [f"{n},x\n{blanks.get(n, '')}" for n in range(100)]
    (tmp_path / "t.csv").write_text("id,x\n" + "".join(lines))
    expected = [2 + n + sum(behind < n for behind in blanks) for n in range(100)]
    assert numbers_of(tmp_path / "t.csv") == expected


def test_a_packed_file_is_known_by_its_bytes(tmp_path):
    (tmp_path / "t.csv").write_bytes(gzip.compress(write_csv(tmp_path / "plain.csv", TABLE).read_bytes()))
    assert rows_of(tmp_path / "t.csv") == TABLE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b",,\n;\n", "has no header"),
        (b"sep=;\n", "has no header"),
        (b"PK\x03\x04\x00\x00", "is a ZIP archive, as workbooks are too"),
        (b"\x1f\x8bnothing", "cannot be unpacked"),
        (b"\n\nid,x\n1,2\n3\n", "the header is row 3.: row 5 has 1"),
        (b"\n \n", "is empty"),
        (b"id,x\n1,2\n3\n4,5,6\n", "2 rows without 2 fields"),
        (b"id,x\n1,2\n3\n4,5,6\n", "row 3 has 1: '3'; row 4 has 3: '4,5,6'"),
        (b'id,x\n1,"2\n3,4\n5,6\n', "quotation mark that is never closed"),
        (b"id,x\n1,\x00\x00\n", "zero bytes"),
        ("id,x\n1,ä\n2,ö\n3,".encode() + b"\xe4\n", "is UTF-8 but for 1 bytes, the first in line 4"),
        (b"Customer report\n\nid,x\n1,2\n", "one field in row 1, 'Customer report', and more below"),
        ("sep=§\nid§x\n1§2\n".encode(), "its separator is '§', .* Save it with comma, semicolon or tab"),
        (b'sep="\nid"x\n1"2\n', "its separator is '\"'"),
        (b"sep=x\nidxy\n1x2\n", "its separator is 'x'"),
        (b"sep= \nid y\n1 2\n", "its separator is ' '"),
        (b"\xff\xfeid,x\xff", "Export it again as UTF-8"),  # says UTF-16, but ends within a letter
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place_and_a_remedy(tmp_path, content, said):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(OnboardingError, match=said):
        rows_of(tmp_path / "t.csv")


@pytest.mark.parametrize("first", ["", "sep=,\n"])
def test_a_header_that_is_none_is_refused_whoever_names_the_separator(tmp_path, first):
    (tmp_path / "t.csv").write_text(f"{first}id,{'x' * 100}\n1,2\n")
    limit = csv.field_size_limit(50)
    try:
        with pytest.raises(OnboardingError, match=r"t.csv is no CSV: field larger than field limit"):
            sniff(tmp_path / "t.csv")
    finally:
        csv.field_size_limit(limit)


def test_a_packed_file_that_is_cut_short_is_refused(tmp_path):
    packed = gzip.compress(write_csv(tmp_path / "t.csv", TABLE).read_bytes())
    (tmp_path / "t.csv.gz").write_bytes(packed[:-9])
    with pytest.raises(OnboardingError, match="cannot be unpacked"):
        rows_of(tmp_path / "t.csv.gz")


letters = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(letters, letters), min_size=1, max_size=20), st.sampled_from(",;\t|"))
def test_whatever_stands_in_a_file_comes_out_of_it(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    table = {"id": [str(n) for n in range(len(rows))], "a": [a for a, _ in rows], "b": [b for _, b in rows]}
    assert rows_of(write_csv(path, table, delimiter, quoting=1)) == table
