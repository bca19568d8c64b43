"""Golden vectors of the graders in llm-eval: strings, ordinary and nasty, and what the harnesses' own functions make of them.

    python grader_vectors.py --chartqa lmms_eval/tasks/chartqa/utils.py --out fixtures/eval/graders.json

Needs lm_eval[math] (lm-evaluation-harness) and the one file of lmms_eval. All strings are made here, from templates and a
fixed seed; none comes from a benchmark. The file is a JSON object: grader -> list of [input..., output].
"""

import argparse
import importlib.util
import json
import math
import random
from fractions import Fraction
from pathlib import Path

import lm_eval
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters.extraction import RegexFilter, WhitespaceFilter
from lm_eval.tasks.hendrycks_math import utils as hendrycks
from lm_eval.tasks.minerva_math import utils as minerva

R = random.Random(20)
COUNT = 260
SPACES = ["", " ", "  ", "\n", "\t", "\u00a0", "\u2003", "\x1f", "\u200b", "\r\n"]
NASTY = [
    "", " ", "\n", "$", "$$", "####", "#### ", "####5", "#### -", "#### .", "#### ,,,", "#### 1 #### 2", "##### 7", "#### ٣", "-", "--5", "5-", "1-2",
    "...", ".", ",", "$.", "-$5", "$-5", "1,2,3", "1.2.3", "０１２", "½", "²", "5\u0000", "\u0000", "a\u0000b.", "5.\n", "5.\n\n", "5..", "5.\u0000",
    "ſ", "İ", "ΣΑΣ", "ß", "é.", "e\u0301", "🙂 12 🙂", "\u202e12", "12\u200b", "1_000", "1e5", "١٢", "inf", "nan", "-0", "0", "00", "0.0",
]


def number():
    n = R.choice([R.randint(0, 9), R.randint(10, 99), R.randint(100, 99999), R.randint(10**5, 10**9)])
    form = R.choice(["{}", "{}", "-{}", "{:,}", "${}", "${:,}", "-${}", "{}.00", "{}.5", "{:,}.75", "{}%", "{},", "{}.", "+{}", "$ {}", "{} $", "0{}", "{}e3"])
    return form.format(n)


def sentence():
    words = ["so", "the", "total", "is", "Enten", "manzanas", "dollars", "and", "we get", "=", "*", "+", "therefore", "más", "für", "each", "\n", "<<3+4=7>>"]
    return " ".join(R.choice(words + [number()]) for _ in range(R.randint(0, 9)))


def response():
    mark = R.choice(["#### ", "#### ", "####", "#### $", "The answer is ", "Die Antwort lautet ", "La respuesta es ", "the answer is ", "So the answer is ", "The answer is: ", "#### -", ""])
    text = sentence() + R.choice(SPACES) + mark + number() + R.choice(["", ".", ". ", "\n", ".\n\n", " €", "!", "\u0000", " #### 3"]) + R.choice(["", sentence()])
    return R.choice(SPACES) + text + R.choice(SPACES)


def texts(make, nasty=NASTY):
    out = list(dict.fromkeys(nasty))
    while len(out) < COUNT:
        text = make()
        if text not in out:
            out.append(text)
    return out


def pairs(make, same=lambda x: x):
    out = []
    for i in range(COUNT):
        a = R.choice(NASTY) if i % 9 == 0 else make()
        b = R.choice([same(a), make(), R.choice(NASTY)]) if i % 2 else same(a)
        out.append((a, b))
    return out


def regex(pattern, select):
    flt = RegexFilter(regex_pattern=pattern, group_select=select)
    return lambda text: flt.apply([[text]], [{}])[0][0]


def exact(**settings):
    return lambda a, b: bool(exact_match_hf_evaluate([a], [b], **settings)["exact_match"])


def looser(text):
    """The same answer, written by somebody else."""
    change = R.choice([
        str.upper, str.lower, lambda t: t + ".", lambda t: t.replace(",", ""), lambda t: "$" + t, lambda t: "Worked out. #### " + t,
        lambda t: t.replace(".", ","), lambda t: t + "\n", lambda t: "(" + t + ")", lambda t: t, lambda t: t + "\u0000", lambda t: t + " ",
    ])
    return change(text)


# LaTeX

def atom(depth=0):
    n, m = R.randint(0, 30), R.randint(1, 12)
    plain = [f"{n}", f"-{n}", f"{n}.{m}", f".{m}", "x", "y", "\\pi", "x^2", f"{n}x", f"x^{{{m}}}", "e", "n", "\\theta", f"{m}\\pi", f"10^{{{m}}}"]
    if depth > 2:
        return R.choice(plain)
    a, b = atom(depth + 1), atom(depth + 1)
    return R.choice(plain + [
        f"\\frac{{{a}}}{{{b}}}", f"\\dfrac{{{a}}}{{{b}}}", f"\\tfrac{{{n}}}{{{m}}}", f"\\frac{n % 10}{m % 10}", f"\\frac{n % 10}{{{m}}}", f"\\sqrt{{{a}}}",
        f"\\sqrt{n}", f"{n}\\sqrt{{{m}}}", f"\\sqrt[3]{{{a}}}", f"\\sqrt[3]{n}", f"{a}+{b}", f"{a} - {b}", f"{a}\\cdot {b}", f"({a})^2",
        f"\\left({a}\\right)", f"{n}/{m}", f"{a}/{b}",
    ])


def answer():
    n, m = R.randint(0, 9999999), R.randint(1, 99)
    inner = atom()
    return R.choice([
        inner, inner, f"${inner}$", f"x={inner}", f"x \\in [{n % 9},{m}]", f"({n % 50},{m})", f"{n:,}", f"{n:,} dollars", f"\\${n}", f"{n % 500}^\\circ",
        f"{n % 500}^{{\\circ}}", f"{m}\\%", f"{m}\\text{{ cm}}", f"{m} \\text{{ square inches}}", f"\\text{{{R.choice('ABCDE')}}}", "\\text{Yes}",
        "\\text{(A)}", f"\\boxed{{{inner}}}", f"\\textbf{{{m}}}", f"\\overline{{{m}}}", f"\\mbox{{{m} units}}", f"{m}\\,000", f"{m}{{,}}000", f"{m},\\!000",
        f"\\left[{n % 9}, {m}\\right)", f"1, 2,\\text{{and}} {m}", f"{m} degrees", f"an {m} ft", f"a {m} cm^2", f"{m}\\ \\text{{m}}^2", f"\\{{1,2,{m}\\}}",
        f"\\begin{{pmatrix}} 1 \\\\ {m} \\end{{pmatrix}}", f"{m}_{{8}}", f"{n} \\mathrm{{th}}", f"x={m}=y", f"f(x) = {inner}", f"{m} \\text{{ and }} {m + 1} \\text{{ cm}}",
        f"{m}\\!", "\\frac", "\\frac{", "\\frac1", "\\sqrt", f"{m}/a", f"{m}/{m + 1}/2", " .5", "{.5}", "0.5", ".5", "k = .5", f"\\left\\{m}", f"{m}..", f"{inner} inches per hour",
        f"{m}\n", f"\\$ {m}.50", f"{m}\\%$", "east", "\\text{ft}", f"{m}ft", f"\\left(3{m}ft\\right)", f"{m}\\picm",
    ])


def final():
    body = R.choice(["We find it. ", "", "$x$\n", "So \\boxed{3}. "])
    return body + R.choice([
        f"Final Answer: The final answer is ${answer()}$. I hope it is correct.", f"Final Answer: The final answer is {answer()}. I hope it is correct.",
        f"Final Answer: The final answer is ${answer()}$.", f"Final Answer:The final answer is ${answer()}$. I hope it is correct.",
        f"Final Answer: The final answer is\n${answer()}$. I hope it is correct.", f"The final answer is ${answer()}$. I hope it is correct.",
        f"Final Answer: The final answer is ${answer()}$, I hope it is correct. I hope it is correct.",
        f"Final Answer: The final answer is ${answer()}$. Final Answer: The final answer is {answer()}. I hope it is correct.", f"{answer()}",
        f"Final Answer: The final answer is ${answer()}$! ", f"Answer is ${answer()}$ and ${answer()}$",
    ])


def solution():
    inner = answer()
    return R.choice(["Thus ", "$x=1$. ", "\\boxed{1}, then "]) + R.choice([
        f"\\boxed{{{inner}}}.", f"$\\boxed{{{inner}}}$", f"\\fbox{{{inner}}}", f"$\\boxed {inner}$ done", f"\\boxed{{{inner}", f"{inner}", f"\\boxed{{a}}\\boxed{{{{{inner}}}}}!", f"\\boxed[{inner}]}}",
    ])


def boxed(text):
    """The reference answer, or null where the harness raises."""
    try:
        return minerva.remove_boxed(minerva.last_boxed_only_string(text))
    except (AssertionError, TypeError, IndexError):
        return None


def stripped(text):
    try:
        return hendrycks.strip_string(text)
    except (AssertionError, ValueError, IndexError):
        return None


def hendrycks_answer(text):
    places = [i for i, c in enumerate(text) if c == "$"]
    return text if len(places) <= 1 else text[places[0] + 1 : places[-1]]


def rewritten(a):
    """Another way to write a LaTeX answer, mostly of the same value."""
    n, m, k = R.randint(1, 30), R.randint(1, 12), R.randint(2, 9)
    return R.choice([
        (f"\\frac{{{n}}}{{{m}}}", f"{n}/{m}"), (f"\\frac{{{n * k}}}{{{m * k}}}", f"\\frac{{{n}}}{{{m}}}"), (f"{n / 2}", f"\\frac{{{n}}}{{2}}"), (f"{n / 4}", f"\\frac{{{n}}}{{4}}"),
        (f"{k}\\sqrt{{{m}}}", f"\\sqrt{{{m * k * k}}}"), (f"\\frac{{1}}{{\\sqrt{{{k}}}}}", f"\\frac{{\\sqrt{{{k}}}}}{{{k}}}"), (f"(x+{n})^{{2}}", f"x^{{2}}+{2 * n}x+{n * n}"),
        (f"{n}\\pi", f"\\pi\\cdot {n}"), (f"\\frac{{{n}\\pi}}{{{m}}}", f"\\frac{{{n}}}{{{m}}}\\pi"), (f"{n}^{{{k}}}", f"{n**k}"), (f"{n}x+{m}y", f"{m}y+{n}x"), (f"{n}x+{m}", f"{m}x+{n}"),
        (f"-\\frac{{{n}}}{{{m}}}", f"\\frac{{-{n}}}{{{m}}}"), (f"{n}", f"{n}.0"), (f"{n}", f"{n + 1}"), (f"{n}.{m}", f"{n}.{m}1"), (f"\\sqrt{{{n}}}", f"{math.sqrt(n):.4f}"), (f"{n}(x+{m})", f"{n}x+{n * m}"),
        (f"({n},{m})", f"({n},{m})"), (f"({n},{m})", f"({n},{m + 1})"), (f"\\text{{{n}}}", f"{n}"), (f"x^{{{k}}}", f"x^{k}"), (f"\\sqrt[3]{{{k**3}}}", f"{k}"), (f"{k}!", f"{math.factorial(k)}"),
        (f"\\frac{{x+{n}}}{{{m}}}", f"\\frac{{x}}{{{m}}}+\\frac{{{n}}}{{{m}}}"), (f"\\left({n}\\right)", f"{n}"), (f"{n}\\cdot {m}", f"{n * m}"), (f"{n}", "x"), ("x", "y"), (f"|{n}|", f"{n}"),
        (f"\\frac{{{n}}}{{x}}", f"{n}x^{{-1}}"), (f"\\sin({n})", f"\\cos({n})"), (f"\\log_{{2}}({2**k})", f"{k}"), (f"{n}+{m}\\sqrt{{2}}", f"{m}\\sqrt{{2}}+{n}"), (a, a),
    ])


def bbh_response():
    phrase = R.choice(["So the answer is ", "the answer is ", "The answer is ", "the answer is", "the answer is  "])
    target = R.choice(["True", "False", "(A)", "(B).", "Yes.", "no.", "12.", "a b c.", "] ) }", "", ".", "x", "é", "🙂.", "valid", "the answer is 3.", "3. So the answer is 4."])
    return sentence() + R.choice(SPACES) + phrase + target + R.choice(["", "\n", ".", " ", "\nthe answer is 9.", "\u2028x"])


def chart(text=None):
    n = R.choice([R.randint(0, 100), R.uniform(0, 10), R.uniform(-500, 500)])
    if text is not None and R.random() < 0.8:
        try:
            x = float(text.rstrip("%"))
            return f"{x * R.choice([1, 1.04, 1.05, 1.06, 0.95, 0.94, 100, 0.01]):.6g}" + R.choice(["", "", "%"])
        except ValueError:
            return R.choice([text.upper(), text.lower(), text + ".", text])
    return R.choice([f"{n}", f"{n:.1f}", f"{n:.2f}%", f"{n}%", "Yes", "No", "blue", "Dark Blue", "2019", f"{n:.0f},000", f"${n:.0f}", f" {n:.1f} ", f"{n:.1f} %", "0", "0%", "0.0", "1_0", "%", "%%", "5%%"])


def pass_at_k(n, c, k):
    if c > n or k > n:
        return None
    return float(1 - Fraction(math.comb(n - c, k), math.comb(n, k)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chartqa", type=Path, required=True, help="lmms_eval/tasks/chartqa/utils.py")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("chartqa", args.chartqa)
    chartqa = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chartqa)

    flexible = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
    one = {
        "gsm8k_strict": (regex(r"#### (\-?[0-9\.\,]+)", 0), texts(response)),
        "flexible": (regex(flexible, -1), texts(response)),
        "mgsm_strict_en": (regex(r"The answer is (\-?[0-9\.\,]+)", 0), texts(response)),
        "mgsm_strict_de": (regex(r"Die Antwort lautet (\-?[0-9\.\,]+)", 0), texts(response)),
        "mgsm_strict_es": (regex(r"La respuesta es (\-?[0-9\.\,]+)", 0), texts(response)),
        "remove_whitespace": (lambda t: WhitespaceFilter().apply([[t]], [{}])[0][0], texts(response)),
        "minerva_final": (minerva.get_unnormalized_answer, texts(final)),
        "minerva_normalise": (minerva.normalize_final_answer, texts(answer)),
        "boxed": (boxed, texts(solution)),
        "hendrycks_answer": (hendrycks_answer, texts(final)),
        "hendrycks_strip": (stripped, texts(answer)),
        "bbh": (regex(r"(?<=the answer is )(.*)(?=.)", 0), texts(bbh_response)),
    }
    gsm8k = [",", "\\$", "(?s).*#### ", "\\.$"]
    two = {
        "exact_match_gsm8k": (exact(ignore_case=True, ignore_punctuation=False, regexes_to_ignore=gsm8k), pairs(number, looser)),
        "exact_match_mgsm": (exact(ignore_case=True, ignore_punctuation=True), pairs(number, looser)),
        "exact_match": (exact(), pairs(number, looser)),
        "hendrycks_equiv": (hendrycks.is_equiv, pairs(answer, lambda a: a.replace("dfrac", "frac").replace(" ", ""))),
        "minerva_equiv": (lambda a, b: bool(minerva.is_equiv(a, b)), [rewritten(minerva.normalize_final_answer(answer())) for _ in range(COUNT)]),
        "chart": (chartqa.relaxed_correctness, [(chart(b), b) if i % 3 else (chart(), b) for i, b in enumerate(chart() for _ in range(COUNT))]),
    }
    vectors = {name: [[text, f(text)] for text in inputs] for name, (f, inputs) in one.items()}
    vectors |= {name: [[a, b, bool(f(a, b))] for a, b in inputs] for name, (f, inputs) in two.items()}
    vectors["pass_at_k"] = [[n, c, k, pass_at_k(n, c, k)] for n in (1, 2, 5, 10, 64, 200) for c in range(0, n + 1, max(1, n // 9)) for k in (1, 2, 8, 10, 64, 100)]
    vectors["source"] = f"lm_eval {lm_eval.__version__}, lmms_eval chartqa"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with open(args.out, "w", encoding="utf-8") as f:
        lines = [f"{json.dumps(name)}:{json.dumps(rows, separators=(',', ':'))}" for name, rows in vectors.items()]
        f.write("{" + ",\n".join(lines) + "}\n")
    for name, rows in vectors.items():
        if name != "source":
            kinds = len({json.dumps(r[-1]) for r in rows})
            print(f"{name:<20} {len(rows)} vectors, {kinds} different outputs")


if __name__ == "__main__":
    main()
