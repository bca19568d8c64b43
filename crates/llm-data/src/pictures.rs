//! Pictures with captions and questions: what vision towers, connectors and vision-language models learn from and are
//! measured on, and its Parquet form.
//!
//! A row is `id`, `image`, `captions`, `questions` (zstd). `image` is the struct `{bytes, path}` in which Hugging Face's
//! `datasets` keeps its `Image` feature, and the schema carries the feature description that `datasets` looks for under the
//! key `huggingface`, so `load_dataset("parquet", ...)` decodes the images. Captions and questions are lists of structs.
//!
//! Reading accepts what such tools write: the three string types, both list types, an `image` column of plain bytes, and
//! files without captions, without questions or whose questions have no `reasoning`. An image that is only a path is refused:
//! a data file does not get to choose which files of this machine are opened.

use crate::document::parts;
use crate::error::{Error, Result, io, record};
use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder, StructBuilder};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use llm_run::atomic::AtomicFile;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows per row group and per batch.
const BATCH: usize = 256;

/// An image and what is said about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Picture {
    /// Unique in its file.
    pub id: String,
    /// The encoded file: PNG, JPEG or WebP.
    pub image: Vec<u8>,
    /// Descriptions.
    pub captions: Vec<Caption>,
    /// Questions with their answers.
    pub questions: Vec<Question>,
}

/// A description of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caption {
    /// ISO 639-1 code.
    pub lang: String,
    /// The sentence.
    pub text: String,
}

/// A question about an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// ISO 639-1 code.
    pub lang: String,
    /// What has to be seen: `colour`, `count`, `word`, ...; results are shown by it.
    pub kind: String,
    /// The question.
    pub question: String,
    /// The gold answer.
    pub answer: String,
    /// What a model may say to itself before the answer; empty is nothing. Not a part of what is measured.
    pub reasoning: String,
}

const CAPTION: [&str; 2] = ["lang", "text"];
const QUESTION: [&str; 5] = ["lang", "kind", "question", "answer", "reasoning"];
/// May be missing or null, and is then empty.
const OPTIONAL: &str = "reasoning";

fn strings(names: &[&str]) -> Fields {
    names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect()
}

fn list(names: &[&str]) -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Struct(strings(names)), true)))
}

fn image_fields() -> Fields {
    [Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)].into_iter().collect()
}

/// The columns, with the description of features that `datasets` reads.
fn schema() -> SchemaRef {
    let value = serde_json::json!({"dtype": "string", "_type": "Value"});
    let rows = |names: &[&str]| serde_json::json!([names.iter().map(|n| (n.to_string(), value.clone())).collect::<serde_json::Map<_, _>>()]);
    let features = serde_json::json!({"info": {"features": {
        "id": value, "image": {"_type": "Image"}, "captions": rows(&CAPTION), "questions": rows(&QUESTION),
    }}});
    let fields = vec![
        Field::new("id", DataType::Utf8, true),
        Field::new("image", DataType::Struct(image_fields()), true),
        Field::new("captions", list(&CAPTION), true),
        Field::new("questions", list(&QUESTION), true),
    ];
    Arc::new(Schema::new_with_metadata(fields, HashMap::from([("huggingface".to_string(), features.to_string())])))
}

/// A column of lists of structs of strings.
fn lists<'a>(names: &[&str], rows: impl Iterator<Item = Vec<Vec<&'a str>>>) -> ArrayRef {
    let mut column = ListBuilder::new(StructBuilder::from_fields(strings(names), 0));
    for row in rows {
        for item in row {
            for (field, text) in item.into_iter().enumerate() {
                if let Some(builder) = column.values().field_builder::<StringBuilder>(field) {
                    builder.append_value(text);
                }
            }
            column.values().append(true);
        }
        column.append(true);
    }
    Arc::new(column.finish())
}

fn to_batch(pictures: &[Picture]) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let mut id = StringBuilder::new();
    let (mut bytes, mut path) = (BinaryBuilder::new(), StringBuilder::new());
    for picture in pictures {
        id.append_value(&picture.id);
        bytes.append_value(&picture.image);
        path.append_null();
    }
    let image = StructArray::try_new(image_fields(), vec![Arc::new(bytes.finish()), Arc::new(path.finish())], None)?;
    let captions = pictures.iter().map(|p| p.captions.iter().map(|c| vec![c.lang.as_str(), c.text.as_str()]).collect());
    let questions =
        pictures.iter().map(|p| p.questions.iter().map(|q| vec![q.lang.as_str(), &q.kind, &q.question, &q.answer, &q.reasoning]).collect());
    RecordBatch::try_new(schema(), vec![Arc::new(id.finish()), Arc::new(image), lists(&CAPTION, captions), lists(&QUESTION, questions)])
}

/// Writes a Parquet file that appears, whole, on [`PictureWriter::finish`].
pub struct PictureWriter {
    path: PathBuf,
    writer: ArrowWriter<AtomicFile>,
    buffer: Vec<Picture>,
}

impl PictureWriter {
    /// Start the file `path`; an older file of that name is replaced at the end.
    pub fn create(path: &Path) -> Result<Self> {
        let file = AtomicFile::create(path)?;
        let level = ZstdLevel::try_new(3).map_err(|e| unwritable(path, &e))?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_max_row_group_row_count(Some(BATCH))
            .set_created_by(format!("llm-data {}", env!("CARGO_PKG_VERSION")))
            .build();
        let writer = ArrowWriter::try_new(file, schema(), Some(properties)).map_err(|e| unwritable(path, &e))?;
        Ok(Self { path: path.to_path_buf(), writer, buffer: Vec::new() })
    }

    /// Add one picture.
    pub fn push(&mut self, picture: Picture) -> Result<()> {
        self.buffer.push(picture);
        if self.buffer.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = to_batch(&self.buffer).map_err(|e| unwritable(&self.path, &e))?;
        self.buffer.clear();
        self.writer.write(&batch).map_err(|e| unwritable(&self.path, &e))
    }

    /// Write what is buffered and put the file in its place.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let file = self.writer.into_inner().map_err(|e| unwritable(&self.path, &e))?;
        Ok(file.commit()?)
    }
}

fn unwritable(path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Format { path: path.to_path_buf(), message: format!("cannot write Parquet: {error}") }
}

/// All pictures of a Parquet file, or of the Parquet files in a folder in the order of their names.
pub fn read(path: &Path) -> Result<Vec<Picture>> {
    let mut pictures = Vec::new();
    for file in parts(path)? {
        read_file(&file, &mut pictures)?;
    }
    Ok(pictures)
}

fn read_file(path: &Path, pictures: &mut Vec<Picture>) -> Result<()> {
    let unreadable = |e: &dyn std::fmt::Display| Error::Format {
        path: path.to_path_buf(),
        message: format!("not a readable Parquet file ({e}); it may be truncated: write or copy it again"),
    };
    let file = File::open(path).map_err(io(path, "cannot open"))?;
    // The Parquet crate has assertions about metadata that damage can break; they become an error here.
    let batches = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH).build()?.collect::<Result<Vec<_>, _>>().map_err(Into::into)
    }))
    .unwrap_or_else(|_| Err(parquet::errors::ParquetError::General("its metadata contradict each other".into())))
    .map_err(|e| unreadable(&e))?;
    let mut row = 0;
    for batch in &batches {
        Columns { path, first_row: row }.pictures(batch, pictures)?;
        row += batch.num_rows();
    }
    Ok(())
}

/// Where values come from, for errors.
struct Columns<'a> {
    path: &'a Path,
    first_row: usize,
}

impl Columns<'_> {
    fn pictures(&self, batch: &RecordBatch, pictures: &mut Vec<Picture>) -> Result<()> {
        let id = self.required(batch, "id")?;
        let image = self.required(batch, "image")?;
        let bytes = match image.as_struct_opt() {
            Some(fields) => fields.column_by_name("bytes").ok_or_else(|| self.wrong("image", image, "a struct {bytes, path} or bytes"))?,
            None => image,
        };
        let captions = batch.column_by_name("captions").map(|column| self.lists(column, "captions", &CAPTION)).transpose()?;
        let questions = batch.column_by_name("questions").map(|column| self.lists(column, "questions", &QUESTION)).transpose()?;
        for row in 0..batch.num_rows() {
            let image = match bytes_at(bytes, row) {
                Some(Some(image)) if !image.is_empty() => image.to_vec(),
                Some(_) => return Err(self.empty(row, "image", "holds no bytes; store the encoded file in the column, not its path")),
                None => return Err(self.wrong("image", bytes, "bytes of an encoded image")),
            };
            let id = self.text(id, row, row, "id")?;
            let captions = match &captions {
                Some(lists) => lists.row(self, row)?.into_iter().map(caption).collect(),
                None => Vec::new(),
            };
            let questions = match &questions {
                Some(lists) => lists.row(self, row)?.into_iter().map(question).collect(),
                None => Vec::new(),
            };
            pictures.push(Picture { id, image, captions, questions });
        }
        Ok(())
    }

    fn required<'b>(&self, batch: &'b RecordBatch, name: &str) -> Result<&'b ArrayRef> {
        batch.column_by_name(name).ok_or_else(|| {
            let schema = batch.schema();
            let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let message =
                format!("no column `{name}`; it has {}: expected pictures with id, image, captions, questions (`llm-data scenes`)", known.join(", "));
            Error::Format { path: self.path.to_path_buf(), message }
        })
    }

    fn wrong(&self, column: &str, found: &ArrayRef, expected: &str) -> Error {
        Error::Format { path: self.path.to_path_buf(), message: format!("column `{column}` is {}, expected {expected}", found.data_type()) }
    }

    fn empty(&self, row: usize, column: &str, message: &str) -> Error {
        record(self.path, format!("row {}", self.first_row + row + 1), format!("column `{column}` {message}"))
    }

    /// The string at `index` of a column; `row` is the row it belongs to.
    fn text(&self, column: &ArrayRef, index: usize, row: usize, name: &str) -> Result<String> {
        let text = match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().is_valid(index).then(|| column.as_string::<i32>().value(index)),
            DataType::LargeUtf8 => column.as_string::<i64>().is_valid(index).then(|| column.as_string::<i64>().value(index)),
            DataType::Utf8View => column.as_string_view().is_valid(index).then(|| column.as_string_view().value(index)),
            _ => return Err(self.wrong(name, column, "strings")),
        };
        text.map(str::to_string).ok_or_else(|| self.empty(row, name, "is null, expected a string"))
    }

    fn lists<'b>(&self, column: &'b ArrayRef, name: &'static str, fields: &'static [&'static str]) -> Result<Lists<'b>> {
        let required: Vec<&str> = fields.iter().copied().filter(|field| *field != OPTIONAL).collect();
        let expected = format!("a list of structs {{{}}}", required.join(", "));
        let (items, offsets) = match column.data_type() {
            DataType::List(_) => {
                let list = column.as_list::<i32>();
                (list.values(), list.offsets().iter().map(|o| *o as usize).collect())
            }
            DataType::LargeList(_) => {
                let list = column.as_list::<i64>();
                (list.values(), list.offsets().iter().map(|o| *o as usize).collect())
            }
            _ => return Err(self.wrong(name, column, &expected)),
        };
        let structs = items.as_struct_opt().ok_or_else(|| self.wrong(name, column, &expected))?;
        if required.iter().any(|field| structs.column_by_name(field).is_none()) {
            return Err(self.wrong(name, column, &expected));
        }
        let columns = fields.iter().map(|field| structs.column_by_name(field)).collect();
        Ok(Lists { column, offsets, columns, name, fields })
    }
}

/// A list column taken apart.
struct Lists<'a> {
    column: &'a ArrayRef,
    offsets: Vec<usize>,
    columns: Vec<Option<&'a ArrayRef>>,
    name: &'static str,
    fields: &'static [&'static str],
}

impl Lists<'_> {
    /// The items of a row, each its strings in the order of the fields; a null list is empty.
    fn row(&self, place: &Columns<'_>, row: usize) -> Result<Vec<Vec<String>>> {
        if self.column.is_null(row) {
            return Ok(Vec::new());
        }
        let item = |index: usize| {
            let named = self.columns.iter().zip(self.fields);
            let text = |(column, field): (&Option<&ArrayRef>, &&str)| match column {
                Some(column) if *field != OPTIONAL || column.is_valid(index) => place.text(column, index, row, &format!("{}.{field}", self.name)),
                _ => Ok(String::new()),
            };
            named.map(text).collect()
        };
        (self.offsets[row]..self.offsets[row + 1]).map(item).collect()
    }
}

fn caption(fields: Vec<String>) -> Caption {
    let mut fields = fields.into_iter();
    let mut next = || fields.next().unwrap_or_default();
    Caption { lang: next(), text: next() }
}

fn question(fields: Vec<String>) -> Question {
    let mut fields = fields.into_iter();
    let mut next = || fields.next().unwrap_or_default();
    Question { lang: next(), kind: next(), question: next(), answer: next(), reasoning: next() }
}

/// The bytes of a row; `None` when the column does not hold bytes.
fn bytes_at(column: &ArrayRef, row: usize) -> Option<Option<&[u8]>> {
    let valid = column.is_valid(row);
    Some(match column.data_type() {
        DataType::Binary => valid.then(|| column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => valid.then(|| column.as_binary::<i64>().value(row)),
        DataType::BinaryView => valid.then(|| column.as_binary_view().value(row)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{BinaryArray, Int32Array, StringArray};

    fn sample(n: usize) -> Vec<Picture> {
        let caption = |text: String| Caption { lang: "de".into(), text };
        let question = |i: usize| Question {
            lang: "es".into(),
            kind: "count".into(),
            question: "¿Cuántas estrellas hay?".into(),
            answer: i.to_string(),
            reasoning: if i == 0 { String::new() } else { "mira".into() },
        };
        (0..n)
            .map(|i| Picture {
                id: format!("train-{i:05}"),
                image: vec![i as u8; 40 + i % 7],
                captions: (0..i % 3).map(|c| caption(format!("Ein gelber Stern, {c}."))).collect(),
                questions: (0..i % 4).map(question).collect(),
            })
            .collect()
    }

    fn write(path: &Path, pictures: Vec<Picture>) {
        let mut writer = PictureWriter::create(path).unwrap();
        pictures.into_iter().for_each(|p| writer.push(p).unwrap());
        writer.finish().unwrap();
    }

    fn write_batch(path: &Path, columns: Vec<(&str, ArrayRef)>) {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn pictures_survive_the_file_across_row_groups() {
        let dir = tempfile::tempdir().unwrap();
        let pictures = sample(2 * BATCH + 3);
        write(&dir.path().join("a.parquet"), pictures[..BATCH + 1].to_vec());
        write(&dir.path().join("b.parquet"), pictures[BATCH + 1..].to_vec());
        assert_eq!(read(&dir.path().join("a.parquet")).unwrap(), pictures[..BATCH + 1]);
        assert_eq!(read(dir.path()).unwrap(), pictures, "a folder is its files in order");
    }

    #[test]
    fn an_unfinished_writer_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = PictureWriter::create(&dir.path().join("a.parquet")).unwrap();
        writer.push(sample(1).remove(0)).unwrap();
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn files_of_others_are_read_and_wrong_ones_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.parquet");
        let id = || Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef;
        let image = |second: Option<&'static [u8]>| Arc::new(BinaryArray::from(vec![Some(&b"png"[..]), second])) as ArrayRef;
        let message = || read(&path).unwrap_err().to_string();

        write_batch(&path, vec![("id", id()), ("image", image(Some(b"jpg")))]);
        assert_eq!(read(&path).unwrap()[1], Picture { id: "b".into(), image: b"jpg".to_vec(), ..Picture::default() });
        write_batch(&path, vec![("id", id()), ("image", image(None))]);
        assert!(message().contains("x.parquet: row 2: column `image` holds no bytes"), "{}", message());
        write_batch(&path, vec![("id", id()), ("image", Arc::new(Int32Array::from(vec![1, 2])))]);
        assert!(message().contains("column `image` is Int32"), "{}", message());
        write_batch(&path, vec![("id", id()), ("pixels", image(None))]);
        assert!(message().contains("no column `image`") && message().contains("pixels"), "{}", message());
        write_batch(&path, vec![("id", id()), ("image", image(Some(b"x"))), ("questions", id())]);
        assert!(message().contains("column `questions` is Utf8, expected a list"), "{}", message());
        std::fs::write(&path, b"PAR1 nonsense").unwrap();
        assert!(message().contains("not a readable Parquet file"), "{}", message());
    }

    #[test]
    fn a_truncated_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        write(&path, sample(50));
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("truncated"));
    }
}
