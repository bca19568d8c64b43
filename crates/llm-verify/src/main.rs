//! `llm-verify grade`: grades a file of answers by the rewards of a configuration, without a model or a tensor library.

use clap::{Parser, Subcommand};
use llm_run::{Args, program};
use llm_verify::report::{GradeConfig, grade};
use std::process::ExitCode;

/// Grade answers: maths, code in a sandbox, format, language, length, rules, programs of your own.
#[derive(Parser)]
#[command(name = "llm-verify", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Grade JSON lines of answers; prints a table and writes OUT/graded.jsonl.
    Grade(Args),
}

fn run() -> anyhow::Result<()> {
    let Command::Grade(args) = Cli::parse().command;
    program::catch_interrupts();
    let config: GradeConfig = args.load()?;
    print!("{}", grade(&config, &args.out)?);
    Ok(())
}

fn main() -> ExitCode {
    // A cell of the sandbox is this program, started anew.
    if let Some(code) = llm_verify::sandbox::cell_main() {
        return code;
    }
    program::main(run)
}
