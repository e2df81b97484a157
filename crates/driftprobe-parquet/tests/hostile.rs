//! Damage and strangers: what is not the dataset that it should be is refused with file, row and column, or noted; nothing
//! panics, and nothing that is missing goes unseen.

mod common;

use bytes::Bytes;
use common::{OWN, only_file, put, told, write_all, write_run};
use driftprobe_parquet::open;
use driftprobe_trace::{Note, Rows, Run, TraceError};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::metadata::{FileMetaData, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataWriter};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

/// A dataset of one small run, and its file.
fn small() -> (TempDir, PathBuf) {
    let (dir, dataset) = (folder(), folder());
    write_run(dir.path(), OWN);
    put(dir.path(), dataset.path(), "one").expect("exported");
    let file = only_file(dataset.path());
    (dataset, file)
}

fn refused(path: &Path) -> TraceError {
    let e = open(path).map(|run| run.events.len()).expect_err("should have been refused");
    assert!(!e.hint().is_empty());
    e
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let (dataset, file) = small();
    let whole = fs::read(&file).expect("file");
    for len in (0..whole.len()).step_by(97).chain([whole.len() - 1, whole.len() - 8]) {
        fs::write(&file, &whole[..len]).expect("file");
        let e = refused(dataset.path()).to_string();
        assert!(e.contains("part-0.parquet"), "{len}: {e}");
    }
}

#[test]
fn a_byte_that_is_another_is_refused_or_changes_nothing() {
    let (dataset, file) = small();
    let whole = fs::read(&file).expect("file");
    let clean = told(&open(dataset.path()).expect("a run"));
    let (mut refusals, mut harmless) = (0, 0);
    for at in (0..whole.len()).step_by(61) {
        for flip in [0x01, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            fs::write(&file, &damaged).expect("file");
            match open(dataset.path()).and_then(|run| rows(&run).map(|()| run)) {
                Err(_) => refusals += 1,
                Ok(run) => {
                    harmless += 1;
                    assert!(told(&run) == clean, "byte {at} of {} ^ {flip:#x}: read as another run", whole.len());
                }
            }
        }
    }
    assert!(refusals > 10 * harmless, "{refusals} refused, {harmless} harmless");
}

/// Asks for every row.
fn rows(run: &Run) -> Result<(), TraceError> {
    run.events.iter().try_for_each(|event| run.verify(event).map(drop))
}

#[test]
fn parts_that_are_missing_are_missed() {
    let dir = folder();
    write_all(dir.path());
    let parts = [
        "search=0/mode=as_designed/repeat=1",
        "search=0/mode=kv_aligned",
        "search=0/mode=kv_aligned/repeat=1/part-0.parquet",
        "search=0/mode=as_designed/repeat=0/_manifest.json",
        "search=0",
        "search=1",
        "search=2/mode=as_designed/repeat=0/part-0.parquet",
    ];
    let (dataset, away) = (folder(), folder());
    let run = put(dir.path(), dataset.path(), "one").expect("exported").folder;
    for part in parts {
        fs::rename(run.join(part), away.path().join("part")).expect("moved away");
        let e = refused(dataset.path()).to_string();
        assert!(e.contains(part) && e.contains("missing"), "{part}: {e}");
        fs::rename(away.path().join("part"), run.join(part)).expect("moved back");
    }
    open(dataset.path()).expect("all is there again");
    // And those that are too many, or another's.
    let run = run.join("search=0/mode=as_designed");
    fs::copy(run.join("repeat=0/part-0.parquet"), run.join("repeat=0/part-1.parquet")).expect("copied");
    assert!(refused(dataset.path()).to_string().contains("does not list the file"));
    fs::remove_file(run.join("repeat=0/part-1.parquet")).expect("deleted");
    fs::rename(run.join("repeat=0/part-0.parquet"), run.join("kept")).expect("moved");
    fs::copy(run.join("repeat=1/part-0.parquet"), run.join("repeat=0/part-0.parquet")).expect("copied");
    assert!(refused(dataset.path()).to_string().contains("not the bytes that were written"));
}

#[test]
fn without_an_inventory_the_manifest_says_what_is_missing() {
    let (dataset, file) = small();
    fs::remove_file(dataset.path().join("run=one/_run.json")).expect("deleted");
    assert!(open(dataset.path()).expect("a run").events.len() > 10);
    fs::remove_file(&file).expect("deleted");
    let run = open(dataset.path()).expect("a manifest without events, as a folder may be");
    assert!(run.events.is_empty() && run.manifest.is_some());
}

/// Where the footer begins.
fn footer_at(bytes: &[u8]) -> usize {
    let len = bytes[bytes.len() - 8..bytes.len() - 4].try_into().expect("four bytes");
    bytes.len() - 8 - u32::from_le_bytes(len) as usize
}

/// The file's footer, changed.
fn refoot(file: &Path, change: impl FnOnce(ParquetMetaData) -> ParquetMetaData) {
    let bytes = fs::read(file).expect("file");
    let metadata = SerializedFileReader::new(Bytes::from(bytes.clone())).expect("a Parquet file").metadata().clone();
    let mut out = bytes[..footer_at(&bytes)].to_vec();
    let changed = change(metadata);
    ParquetMetaDataWriter::new_with_tracked(parquet::file::writer::TrackedWrite::new(&mut out), &changed)
        .finish()
        .expect("a footer");
    fs::write(file, out).expect("file");
}

fn with_rows(metadata: ParquetMetaData, rows: i64) -> ParquetMetaData {
    let old = metadata.file_metadata();
    let file = FileMetaData::new(old.version(), rows, None, None, old.schema_descr_ptr(), None);
    let mut groups = metadata.row_groups().to_vec();
    let first = groups.remove(0).into_builder().set_num_rows(rows).build().expect("a group");
    groups.insert(0, first);
    let mut builder = ParquetMetaDataBuilder::new(file);
    for group in groups {
        builder = builder.add_row_group(group);
    }
    builder.build()
}

#[test]
fn a_footer_that_says_more_or_fewer_rows_is_refused() {
    let (dataset, file) = small();
    fs::remove_file(dataset.path().join("run=one/_run.json")).expect("deleted");
    let whole = fs::read(&file).expect("file");
    let rows = open(dataset.path()).expect("a run").events.len() as i64;
    for (rows, said) in [
        (rows + 1, "ends after"),
        (rows - 1, "holds more"),
        (0, "holds more"),
        (-1, ""),
        (i64::MAX, "at most 16384 are read"),
    ] {
        fs::write(&file, &whole).expect("file");
        refoot(&file, |metadata| with_rows(metadata, rows));
        let e = refused(dataset.path()).to_string();
        assert!(e.contains(said) && e.contains("part-0.parquet"), "{rows}: {e}");
    }
    // Of the file as a whole: field 3 behind the schema, a zigzag number of one byte.
    let number = u8::try_from(rows * 2).expect("a small run");
    let footer = footer_at(&whole);
    let at = whole[footer..].windows(2).position(|two| *two == [0x16, number]).expect("the rows of the file") + footer;
    let mut damaged = whole.clone();
    damaged[at + 1] += 2;
    fs::write(&file, damaged).expect("file");
    let e = refused(dataset.path()).to_string();
    assert!(e.contains(&format!("its footer says {} rows; its row groups have {rows}", rows + 1)), "{e}");
}

#[test]
fn a_file_of_fewer_rows_than_the_inventory_says_is_refused() {
    let (dataset, file) = small();
    let inventory = dataset.path().join("run=one/_run.json");
    let text = fs::read_to_string(&inventory).expect("inventory");
    let rows = open(dataset.path()).expect("a run").events.len();
    let more = text.replace(&format!("\"rows\": {rows}"), &format!("\"rows\": {}", rows + 1));
    fs::write(&inventory, more).expect("inventory");
    let e = refused(dataset.path()).to_string();
    assert!(e.contains(&format!("expected {} rows", rows + 1)) && e.contains(&file.display().to_string()), "{e}");
    fs::write(&inventory, text.replace("\"schema\": 1", "\"schema\": 2")).expect("inventory");
    assert!(refused(dataset.path()).to_string().contains("schema"));
    fs::write(&inventory, "{}").expect("inventory");
    assert!(refused(dataset.path()).to_string().contains("_run.json"));
}

#[test]
fn a_manifest_that_is_not_the_one_that_was_written_is_refused() {
    let (dataset, file) = small();
    let manifest = file.with_file_name("_manifest.json");
    let text = fs::read_to_string(&manifest).expect("manifest");
    open(dataset.path()).expect("as it was");
    fs::write(&manifest, format!("{text} ")).expect("manifest");
    let e = refused(dataset.path()).to_string();
    assert!(e.contains("_manifest.json") && e.contains("not the one that was written"), "{e}");
    // Without the inventory nothing is known of what was written.
    fs::remove_file(dataset.path().join("run=one/_run.json")).expect("deleted");
    open(dataset.path()).expect("a manifest like any other");
}

/// A column of another writer: its type, and the values of the rows.
enum Values {
    Texts(Vec<&'static str>),
    Integers(Vec<i64>),
    Doubles(Vec<f64>),
}

/// A file of these columns, all of them required.
fn foreign(dir: &Path, columns: Vec<(&str, Values)>) -> PathBuf {
    let schema: String = columns.iter().map(|(schema, _)| format!("required {schema};")).collect();
    let schema = parse_message_type(&format!("message other {{ {schema} }}")).expect("a schema");
    let path = dir.join("rows.parquet");
    let file = fs::File::create(&path).expect("file");
    let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Default::default()).expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    for (_, values) in columns {
        let mut column = group.next_column().expect("a column").expect("a column");
        match values {
            Values::Texts(all) => {
                let all: Vec<ByteArray> = all.into_iter().map(ByteArray::from).collect();
                column.typed::<ByteArrayType>().write_batch(&all, None, None).expect("texts")
            }
            Values::Integers(all) => column.typed::<Int64Type>().write_batch(&all, None, None).expect("integers"),
            Values::Doubles(all) => column.typed::<DoubleType>().write_batch(&all, None, None).expect("doubles"),
        };
        column.close().expect("closed");
    }
    group.close().expect("closed");
    writer.close().expect("closed");
    path
}

/// The columns that an event must have, of two rows, and one more.
fn with(column: &'static str, values: Values) -> Vec<(&'static str, Values)> {
    vec![
        ("binary event (STRING)", Values::Texts(vec!["stage_trace"; 2])),
        ("binary prompt_id (UTF8)", Values::Texts(vec!["p"; 2])),
        ("binary phase", Values::Texts(vec!["prefill", "decode"])),
        ("binary point (ENUM)", Values::Texts(vec!["final_norm_in"; 2])),
        (column, values),
    ]
}

#[test]
fn other_writers_integers_are_integers_and_their_sources_the_rows() {
    let dir = folder();
    let file = foreign(dir.path(), with("int64 hash", Values::Integers(vec![0, i64::MAX])));
    let run = open(&file).expect("a signed column of no negative number");
    assert_eq!(
        run.events.iter().map(|event| event.hash.expect("a hash").value).collect::<Vec<_>>(),
        [0, i64::MAX as u64]
    );
    assert_eq!(run.events[1].source.to_string(), "rows.parquet:2");
    // As of JSON without a manifest, nothing is known to be complete.
    assert_eq!(run.notes[0], Note::ManifestMissing);
    let unsigned = with("int64 hash (INTEGER(64,false))", Values::Integers(vec![-1, i64::MIN]));
    let run = open(&foreign(dir.path(), unsigned)).expect("an unsigned column");
    assert_eq!(run.events[0].hash.expect("a hash").value, u64::MAX);
    assert_eq!(run.events[1].hash.expect("a hash").value, 1 << 63);
}

#[test]
fn what_no_line_of_json_may_hold_is_refused_with_row_and_column() {
    let dir = folder();
    for (column, values, said) in [
        ("int64 hash", Values::Integers(vec![1, -1]), "row 2, column hash: -1 is outside"),
        ("double hash", Values::Doubles(vec![1.0, 2.0]), "column hash: expected an integer, found DOUBLE"),
        ("int64 hash (TIMESTAMP(MILLIS,true))", Values::Integers(vec![1, 2]), "column hash: expected an integer"),
        ("int64 token_id", Values::Integers(vec![1 << 32, 2]), "row 1, column token_id: 4294967296 is outside"),
        ("int64 layer", Values::Integers(vec![1, 1 << 31]), "row 2, column layer: 2147483648 is outside"),
        ("binary layer (STRING)", Values::Texts(vec!["1", "2"]), "column layer: expected an integer, found BYTE_ARRAY"),
        ("int64 min", Values::Integers(vec![1, 2]), "column min: expected a float or a double, found INT64"),
        ("double sample", Values::Doubles(vec![1.0, 2.0]), "column sample: expected a list of floats or doubles"),
        ("double dtype", Values::Doubles(vec![1.0, 2.0]), "column dtype: expected text, found DOUBLE"),
        ("binary payload_key", Values::Texts(vec!["a", "b"]), "row 1, column payload_file: missing"),
        ("binary tensor_file", Values::Texts(vec!["a", "b"]), ""),
    ] {
        let outcome = open(&foreign(dir.path(), with(column, values)));
        match said {
            // Columns that this version does not know are noted, as fields of JSON are.
            "" => {
                let note = Note::UnknownField { name: "tensor_file".to_owned(), count: 2 };
                assert!(outcome.expect("an unknown column").notes.contains(&note));
            }
            said => {
                let e = outcome.map(|run| run.events.len()).expect_err(column).to_string();
                assert!(e.contains(said) && e.contains("rows.parquet"), "{column}: {e}");
            }
        }
    }
    let twice = with("binary event (STRING)", Values::Texts(vec!["a", "b"]));
    assert!(open(&foreign(dir.path(), twice)).expect_err("a column twice").to_string().contains("column event"));
    let mut columns = with("int64 hash", Values::Integers(vec![1, 2]));
    columns[2].1 = Values::Texts(vec!["prefill", "sideways"]);
    let e = open(&foreign(dir.path(), columns)).expect_err("no phase").to_string();
    assert!(e.contains("row 2, column phase: `sideways` is none of prefill"), "{e}");
    let mut columns = with("int64 hash", Values::Integers(vec![1, 2]));
    columns.remove(0);
    let e = open(&foreign(dir.path(), columns)).expect_err("no events").to_string();
    assert!(e.contains("column event: there is no such column"), "{e}");
    let mut columns = with("binary payload_key", Values::Texts(vec!["a", "b"]));
    columns.push(("binary payload_file", Values::Texts(vec!["t.safetensors", "../t.safetensors"])));
    let e = open(&foreign(dir.path(), columns)).expect_err("a path out of the run").to_string();
    assert!(e.contains("row 2, column payload_file"), "{e}");
}

#[test]
fn payloads_that_are_not_what_the_event_says_are_refused_when_asked_for() {
    let dir = folder();
    let columns = |payload: &'static str, more: Vec<(&'static str, Values)>| {
        let mut columns = with("binary payload_key", Values::Texts(vec!["a", "a"]));
        columns.push(("binary payload_file", Values::Texts(vec!["t", "t"])));
        columns.push(("binary payload", Values::Texts(vec!["12345678", payload])));
        columns.extend(more);
        columns
    };
    let told = || vec![("binary payload_dtype", Values::Texts(vec!["f32"; 2]))];
    let ask = |columns| {
        let run = open(&foreign(dir.path(), columns)).expect("events that can be read");
        rows(&run).map_err(|e| e.to_string())
    };
    let e = ask(columns("12345678", vec![])).expect_err("no dtype");
    assert!(e.contains("payload_dtype"), "{e}");
    let e = ask(columns("12345678", told())).expect_err("no shape");
    assert!(e.contains("payload_shape"), "{e}");
    let e = ask(columns("8765432!", told())).expect_err("two rows of one name");
    assert!(e.contains("different bytes") && e.contains("tensor `a`"), "{e}");
    let bad = vec![("binary payload_dtype", Values::Texts(vec!["f32", "fp8"]))];
    let e = open(&foreign(dir.path(), columns("12345678", bad))).expect_err("no dtype of a row").to_string();
    assert!(e.contains("row 2, column payload_dtype"), "{e}");
}

/// What no inventory guards, the reader must bear. (With a step of 1, 25 of the first 2,450 files made the Parquet reader panic
/// inside; each is refused with its name.)
#[test]
fn no_byte_makes_the_reader_panic() {
    let (dataset, file) = small();
    fs::remove_file(dataset.path().join("run=one/_run.json")).expect("deleted");
    let whole = fs::read(&file).expect("file");
    let mut refusals = 0;
    for at in (0..whole.len()).step_by(89) {
        let mut damaged = whole.clone();
        damaged[at] ^= [0x01, 0x10, 0x80, 0xff][at % 4];
        fs::write(&file, &damaged).expect("file");
        if let Err(e) = open(dataset.path()).and_then(|run| rows(&run)) {
            refusals += 1;
            // A payload's wrong bytes are told by the payload's name.
            assert!(["part-0.parquet", "hash to"].iter().any(|said| e.to_string().contains(said)), "{at}: {e}");
        }
    }
    assert!(refusals > 10, "{refusals} refused");
}
