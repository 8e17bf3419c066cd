"""Tables and records that somebody has changed: refused in a line that says what is wrong, and never changed."""

import json
import subprocess

import numpy as np
import pytest

from common import journal, seals, tables
from common.seals import Changed
from common.tables import Column, TableError
from common.texts import JSONError, parse_json, read_json

COLUMNS = {
    "name": Column(words=("a", "b")),
    "n": Column("integer", 1, 1e9),
    "right": Column("number", 0, 1, also=("nan",)),
    "note": Column(),
}
ROWS = [{"name": "a", "n": 3, "right": 0.1 + 0.2, "note": "x, y"}, {"name": "b", "n": 4, "right": np.nan, "note": None}]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    tables.finish(path, ROWS, COLUMNS)
    return path


def test_a_finished_table_is_read_as_it_was_written(table):
    rows = tables.read(table, COLUMNS, ["name"])
    assert [float(row["right"]) for row in rows][:1] == [0.1 + 0.2]
    done = subprocess.run(["sha256sum", "--check", "table.csv.sha256"], cwd=table.parent, capture_output=True)
    assert done.returncode == 0


@pytest.mark.parametrize("seed", range(20))
def test_any_changed_byte_of_a_finished_table_is_told(seed, table):
    rng, data = np.random.default_rng(seed), bytearray(table.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    table.write_bytes(data)
    with pytest.raises(ValueError, match=r"table\.csv"):
        tables.read(table, COLUMNS)
    assert table.read_bytes() == data


def test_a_changed_table_is_accepted_by_a_command_and_goes_with_its_checksum(table, capsys):
    table.write_text(table.read_text().replace("a,3", "a,5"))
    with pytest.raises(Changed, match=r"not as it was finished .* --fresh, or accept it by `python -m common\.seals"):
        tables.read(table, COLUMNS)
    assert seals.main([str(table)]) == 0
    assert tables.read(table, COLUMNS)[0]["n"] == "5"
    tables.append(table, ROWS[0], COLUMNS)  # no longer finished
    assert not seals.beside(table).exists()
    tables.finish(table, ROWS, COLUMNS)
    tables.remove(table)
    assert not list(table.parent.iterdir())
    assert seals.main([str(table)]) == 2
    assert "table.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("c", "3", "0.5", ""), "name must be one of 'a', 'b'; got 'c'"),
        (("a", "0", "0.5", ""), "n must be an integer of at least 1 and at most 1e[+]09; got '0'"),
        (("a", "3.0", "0.5", ""), "n must be an integer"),
        (("a", "1e308", "0.5", ""), "n must be an integer"),
        (("a", "1" * 5000, "0.5", ""), "n must be an integer"),
        (("a", "1_0", "0.5", ""), "n must be an integer"),
        (("a", " 3", "0.5", ""), "n must be an integer"),
        (("a", "٣", "0.5", ""), "n must be an integer"),
        (("a", "", "0.5", ""), "n must be an integer"),
        (("a", "3", "-1", ""), "right must be a finite number of at least 0 and at most 1 or 'nan'; got '-1'"),
        (("a", "3", "1.1", ""), "right must be"),
        (("a", "3", "inf", ""), "right must be"),
        (("a", "3", "NaN", ""), "right must be"),
        (("a", "3", "1e999", ""), "right must be"),
        (("a", "3", "", ""), "right must be"),
        (("a", "3", "0x1", ""), "right must be"),
    ],
)
def test_cells_outside_their_domain_are_refused(cells, message, table):
    tables.write(table, ROWS, COLUMNS)
    with open(table, "a") as file:
        file.write(",".join(cells) + "\n")
    with pytest.raises(TableError, match=rf"table\.csv has a wrong line 4: {message}"):
        tables.read(table, COLUMNS)


def test_two_rows_of_one_kind_are_refused(table):
    tables.write(table, [*ROWS, ROWS[0]], COLUMNS)
    with pytest.raises(TableError, match="wrong line 4: it is of the same name, n as line 2"):
        tables.read(table, COLUMNS, ["name", "n"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.decode().encode("utf-16"), "must be a table, in UTF-8; byte 0 is not"),
        (lambda d: d + b"a,3,0.5,\xff\n", "must be a table, in UTF-8"),
        (lambda d: d.replace(b"\n", b"\r\n"), "it has a carriage return"),
        (lambda d: d.replace(b"\n", b"\r"), "it has a carriage return"),
        (lambda d: d.replace(b"x", b"\0"), "it has a NUL byte"),
        (lambda d: d + b'a,3,0.5,"open\n', "is damaged|truncated"),
        (lambda d: d + b"a,3,0.5," + b"x" * 200_000 + b"\n", r"is damaged \(field larger"),
        (lambda d: d[:-5], "truncated"),
        (lambda d: b"", "an empty file"),
        (lambda d: d.replace(b"name", b"study"), "its header must be name,n,right,note; got study,n"),
        (lambda d: d.replace(b"a,3", b"a"), "truncated"),
    ],
)
def test_files_that_are_no_such_table(change, message, table):
    seals.unseal(table)
    data = change(table.read_bytes())
    table.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        tables.read(table, COLUMNS)
    assert "\n" not in str(error.value)
    assert table.read_bytes() == data


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(ValueError, match="must be a table, a file"):
        tables.read(tmp_path, COLUMNS)


# --- JSON

BAD = {
    "": "is not JSON at line 1, column 1",
    "{": "is not JSON at line 1, column 2",
    "[" * 100_000: "is nested too deeply",
    '{"a":' * 100_000: "is nested too deeply",
    '{"a": NaN}': "has the number NaN; all must be finite",
    '{"a": -Infinity}': "has the number -Infinity",
    '{"a": 1e999}': "has the number 1e999",
    '{"a": ' + "9" * 5000 + "}": "has a number of too many digits",
    '{"a": 1, "b": 2, "a": 1}': "has the key 'a' twice",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_what_is_no_json_of_ours(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(JSONError, match=BAD[text]) as error:
        read_json(path, "a record")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(JSONError, match=r"b\.jsonl.*line 3"):
        parse_json(text, "b.jsonl", 3)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"text"'])
def test_json_of_another_kind(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(JSONError, match="must be a record, a JSON object; it is a"):
        read_json(tmp_path / "a.json", "a record")


def test_json_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.json is missing; it must be a record"):
        read_json(tmp_path / "a.json", "a record")
    with pytest.raises(ValueError, match="must be a record, a file"):
        read_json(tmp_path, "a record")
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="in UTF-8; byte 7 is not"):
        read_json(tmp_path / "a.json", "a record")
    (tmp_path / "a.json").write_text('{"a": 10}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json", "a record") == {"a": 10}


def test_a_changed_record_is_refused_until_accepted(tmp_path):
    path, configuration = tmp_path / "run.json", {"seed": 0}
    record = journal.claim(path, configuration)
    record["results"] = {"task": {"accuracy": 0.25, "n": 4}}
    journal.save(path, record)
    assert journal.claim(path, configuration)["results"] == record["results"]
    whole = path.read_text()
    for changed in (whole.replace("0.25", "0.75"), whole.replace('"n": 4', '"n": "4"')):
        path.write_text(changed)
        with pytest.raises(Changed, match=r"is not as it was written; restore it, .*`python -m common\.seals"):
            journal.claim(path, configuration)
        assert path.read_text() == changed
    del (stripped := json.loads(whole))[seals.KEY]
    path.write_text(json.dumps(stripped))
    with pytest.raises(Changed, match="has no checksum"):
        journal.claim(path, configuration)
    assert seals.main([str(path)]) == 0
    assert journal.claim(path, configuration)["results"] == record["results"]
    with pytest.raises(ValueError, match="a record takes finite numbers alone"):
        journal.save(path, record | {"results": {"loss": float("nan")}})


@pytest.mark.parametrize("text", ["[1]", "1", '{"other": 1}', '{"key": NaN}', "[" * 100_000, '{"key": 1, "key": 2}'])
def test_lines_of_a_journal(text, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"key": 1}}\n{text}\n{{"key": 3}}\n')
    with pytest.raises(ValueError, match="line 2 is none"):
        journal.read(path, ["key"])
    path.write_text('{"key": 1}\n{"key"')
    assert journal.read(path, ["key"]) == [{"key": 1}]
    assert path.read_text() == '{"key": 1}\n'
    path.write_text("my notes")
    with pytest.raises(ValueError, match="its last line is none"):
        journal.read(path)
    assert path.read_text() == "my notes"
    with pytest.raises(ValueError, match="takes finite numbers alone"):
        journal.append(path, [{"key": float("inf")}])
