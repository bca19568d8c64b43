//! `llm-data train-classifier`: a text classifier from labelled documents.

use anyhow::Result;
use llm_data::classifier::{TrainClassifierConfig, train_classifier};
use llm_run::{Args, Run};

/// Run the stage.
pub fn run(args: &Args) -> Result<()> {
    llm_run::program::catch_interrupts();
    let config: TrainClassifierConfig = args.load()?;
    for input in &config.inputs {
        super::require_input("train-classifier", &input.path)?;
    }
    let mut run = Run::start(&args.out, "llm-data", "train-classifier", &config)?;
    run.manifest.seed = Some(config.seed);
    for input in &config.inputs {
        run.input(&input.path)?;
    }
    let found = train_classifier(&config, &args.out)?;
    println!("{:<20} {:>9} {:>11} {:>6}", "label", "training", "calibration", "test");
    for (label, [training, calibration, test]) in &found.documents {
        println!("{label:<20} {training:>9} {calibration:>11} {test:>6}");
    }
    println!("\n{:>9} {:>9} {:>9} {:>9}", "threshold", "precision", "recall", "kept");
    for row in found.table.iter().chain([&found.tested]) {
        println!("{:>9.4} {:>9.3} {:>9.3} {:>9.3}", row.threshold, row.precision, row.recall, row.kept);
    }
    println!("last line: the threshold for {:?}; AUC {}", config.target, found.auc.map_or("-".into(), |a| format!("{a:.4}")));
    run.finish(serde_json::to_value(&found)?)?;
    Ok(())
}
