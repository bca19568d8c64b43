//! Questions about pictures, asked of a model whose answers are known.

use llm_data::pictures::{Picture, Question};
use llm_eval::model::LanguageModel;
use llm_eval::{Result, pictures};
use llm_infer::{Completion, FinishReason, Image, Likelihood, Request, Scored};
use llm_run::Seed;
use llm_tensor::{DeviceSpec, host};
use llm_tokenizer::Tokenizer;
use llm_tokenizer::trainer::{TrainerConfig, train};
use std::cell::RefCell;

/// Answers from the first byte of the image file, which it finds in the one pixel it is given.
struct Seer {
    tokenizer: Tokenizer,
    context: usize,
    prompts: RefCell<Vec<String>>,
}

impl Seer {
    fn new(context: usize) -> Self {
        let text = ["How many are there? Wie viele sind es? red rot 1 2 3 4 ".repeat(20)];
        let tokenizer = train(text, &TrainerConfig { vocab_size: 320, ..TrainerConfig::default() }).unwrap();
        Self { tokenizer, context, prompts: RefCell::default() }
    }
}

impl LanguageModel for Seer {
    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
    fn context_length(&self) -> usize {
        self.context
    }
    fn log_probabilities(&self, _: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        unreachable!("questions are answered, not scored")
    }
    fn likelihoods(&self, _: &[Scored]) -> Result<Vec<Likelihood>> {
        unreachable!("questions are answered, not scored")
    }
    fn generate(&self, requests: Vec<Request>, done: &mut dyn FnMut(usize, &Completion) -> Result<()>) -> Result<Vec<Completion>> {
        let mut answer = |(place, request): (usize, Request)| {
            assert_eq!((request.images.len(), request.sampling.temperature), (1, 0.0));
            self.prompts.borrow_mut().push(self.tokenizer.decode(&request.prompt, false));
            let known = |n: u8| image_of(n).hash() == request.images[0].hash();
            let number = (0..9).find(|n| known(*n)).unwrap();
            // A model that reads German badly.
            let german = self.tokenizer.decode(&request.prompt, true).contains("Wie");
            let text = if german { " 1 " } else { ["zero", "one", "2", "three.", "five"][usize::from(number)] };
            let tokens = self.tokenizer.encode(text);
            let completion = Completion::of(tokens.clone(), vec![0.0; tokens.len()], FinishReason::Stop);
            done(place, &completion).map(|()| completion)
        };
        requests.into_iter().enumerate().map(&mut answer).collect()
    }
}

fn image_of(n: u8) -> Image {
    let device = DeviceSpec::Cpu.open().unwrap();
    Image::from_pixel_values(host::from_vec(vec![f32::from(n)], [1, 1, 1, 1], &device))
}

fn pictures_of(numbers: &[u8]) -> Vec<Picture> {
    let question = |lang: &str, text: &str, n: u8| Question {
        lang: lang.into(),
        kind: "count".into(),
        question: text.into(),
        answer: n.to_string(),
        ..Question::default()
    };
    let picture = |&n: &u8| Picture {
        id: format!("p{n}"),
        image: vec![n],
        captions: Vec::new(),
        questions: vec![question("en", "How many are there?", n), question("de", "Wie viele sind es?", n)],
    };
    numbers.iter().map(picture).collect()
}

#[test]
fn each_question_meets_its_own_image_and_its_own_answer() {
    let (model, all) = (Seer::new(200), pictures_of(&[1, 2, 3, 4]));
    let asked = pictures::questions(&all, None, Seed(0));
    let rows = pictures::ask_with(&model, &|file| Ok(image_of(file[0])), 5, &asked, 8).unwrap();
    let right: Vec<(&str, bool)> = rows.iter().map(|r| (r.id.as_str(), r.correct == Some(true))).collect();
    let expected =
        [("p1#0", true), ("p1#1", true), ("p2#0", true), ("p2#1", false), ("p3#0", true), ("p3#1", false), ("p4#0", false), ("p4#1", false)];
    assert_eq!(right, expected);
    let tasks = pictures::summarise(&rows);
    assert_eq!((tasks["pictures"].value, tasks["pictures/en"].value, tasks["pictures/de"].value), (0.5, 0.75, 0.25));
    let prompts = model.prompts.borrow();
    let (image, question) = (prompts[0].find("<|image|>").unwrap(), prompts[0].find("How many").unwrap());
    assert!(image < question, "the image stands before the question: {}", prompts[0]);
}

#[test]
fn an_image_that_does_not_fit_is_an_error() {
    let (model, all) = (Seer::new(40), pictures_of(&[1]));
    let asked = pictures::questions(&all, None, Seed(0));
    let message = pictures::ask_with(&model, &|file| Ok(image_of(file[0])), 64, &asked, 8).unwrap_err().to_string();
    assert!(message.contains("`p1#0`") && message.contains("context holds 40"), "{message}");
}
