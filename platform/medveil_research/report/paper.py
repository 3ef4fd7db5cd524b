"""What reporting guidelines ask for, answered as far as a study knows; the rest is left to its authors.

Sources: Tejani and others, "Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 update",
Radiology: Artificial Intelligence 2024; Collins and others, "TRIPOD+AI statement", BMJ 2024; Mitchell and
others, "Model cards for model reporting", FAT* 2019. The items are said in our own words.
"""

from __future__ import annotations

from dataclasses import dataclass

from medveil.readings import interval_words
from medveil_research.report.rows import agreed_sites, groups
from medveil_research.results import PrivacyFacts, Result
from medveil_research.words import plain, short_hash


@dataclass(frozen=True)
class Item:
    """One line of a checklist; an empty answer is a blank for the authors."""

    number: str
    asks: str
    answer: str = ""


@dataclass(frozen=True)
class Checklist:
    """A guideline with what is known."""

    name: str
    items: tuple[Item, ...]

    @property
    def filled(self) -> int:
        """Items with an answer."""
        return sum(bool(item.answer) for item in self.items)


CLAIM = (
    ("1", "Title says that it is AI, and which kind", "kind"),
    ("2", "Structured summary", ""),
    ("3", "Background: the clinical question, intended use and role", ""),
    ("4", "Aims and hypotheses", ""),
    ("5", "Prospective or retrospective", ""),
    ("6", "Goal of the study", "goal"),
    ("7", "Where the data come from", "source"),
    ("8", "Who was included and who was left out", ""),
    ("9", "What was done to the images before", "preparation"),
    ("10", "Choice of parts of the data", ""),
    ("11", "How identities were removed", "identities"),
    ("12", "What was done about missing data", "missing"),
    ("13", "How the images were acquired", ""),
    ("14", "Reference standard: what counts as the truth", "truth"),
    ("15", "Why this reference standard", ""),
    ("16", "Who annotated, with which experience", ""),
    ("17", "How the test patients were annotated", ""),
    ("18", "How well annotators agree", ""),
    ("19", "How patients were divided into training, validation and test", "splits"),
    ("20", "At which level the parts are separate", "level"),
    ("21", "Why so many patients", ""),
    ("22", "The model: inputs, outputs, layers", "model"),
    ("23", "Software", "software"),
    ("24", "Where the weights began", "start"),
    ("25", "How it was trained", "training"),
    ("26", "How the final model was chosen", "chosen"),
    ("27", "Several models together", "ensemble"),
    ("28", "Which figures judge it", "figures"),
    ("29", "How uncertainty is stated", "uncertainty"),
    ("30", "Robustness", ""),
    ("31", "Explanations of single answers", ""),
    ("32", "Test on the hospitals' own patients", "internal"),
    ("33", "Test on outside patients", ""),
    ("34", "Registration of a trial", ""),
    ("35", "How many were included and excluded", "numbers"),
    ("36", "Who is in each part: age, sex, illness", ""),
    ("37", "Performance with its uncertainty", "result"),
    ("38", "Diagnostic accuracy with its precision", "accuracy"),
    ("39", "Wrong cases looked at by a doctor", ""),
    ("40", "Limits of the study", "limits"),
    ("41", "What it means for practice", ""),
    ("42", "Where the whole protocol is", "protocol"),
    ("43", "Availability of software, model, data", "availability"),
    ("44", "Funding, and the funders' part", ""),
)
TRIPOD = (
    ("1", "Title: development or evaluation, population, outcome", ""),
    ("2", "Abstract", ""),
    ("3a–c", "Background: health context, target population, known inequalities", ""),
    ("4", "Objectives: development, evaluation or both", "goal"),
    ("5a", "Sources of data", "source"),
    ("5b", "Dates of the data", ""),
    ("6a", "Setting: centres, places", "setting"),
    ("6b–c", "Eligibility and treatments", ""),
    ("7", "Preparation and checks of the data", "preparation"),
    ("8a", "Outcome and how it was assessed", "truth"),
    ("8b–c", "Who assessed it, blinded to what", ""),
    ("9a–c", "Predictors", "predictors"),
    ("10", "Sample size", "numbers"),
    ("11", "Missing data", "missing"),
    ("12a", "Use of the data for development and evaluation", "splits"),
    ("12b–c", "Kind of model and how it was built", "training"),
    ("12d", "Differences between centres", "centres"),
    ("12e", "Measures of performance", "figures"),
    ("12f–g", "Updating; how predictions are made", "output"),
    ("13", "Imbalance of classes", ""),
    ("14", "Fairness", "fairness"),
    ("15", "Output of the model and thresholds", "output"),
    ("16", "Differences between training and evaluation data", ""),
    ("17", "Ethics approval", ""),
    ("18a–b", "Funding and conflicts of interest", ""),
    ("18c", "Protocol", "protocol"),
    ("18d", "Registration", ""),
    ("18e–f", "Sharing of data and code", "availability"),
    ("19", "Involvement of patients and the public", ""),
    ("20a–c", "Participants: flow, characteristics, differences", ""),
    ("21", "Participants and outcomes in each analysis", "numbers"),
    ("22", "The full model", "model"),
    ("23a", "Performance with intervals, also of subgroups", "result"),
    ("23b", "Differences between centres", "centres"),
    ("24", "Updates of the model", ""),
    ("25", "Interpretation, with fairness", ""),
    ("26", "Limitations", "limits"),
    ("27a–c", "Use in practice: poor inputs, skills needed, next steps", ""),
)
TRUTHS = {
    "classification": "one label for each image, given by each hospital in its own manifest",
    "findings": "for each finding there, absent or not known, given by each hospital in its own manifest",
    "segmentation": "label maps drawn at each hospital",
    "regression": "a number for each image, given by each hospital in its own manifest",
}


def checklists(result: Result) -> tuple[Checklist, ...]:
    """CLAIM and TRIPOD+AI."""
    known = facts(result)
    return tuple(
        Checklist(name, tuple(Item(number, asks, known.get(key, "")) for number, asks, key in items))
        for name, items in (("CLAIM 2024", CLAIM), ("TRIPOD+AI", TRIPOD))
    )


def model_card(result: Result) -> tuple[Item, ...]:
    """The model on one card."""
    known = facts(result)
    rows = (
        ("Model", known["model"]),
        ("Made by", f"{known['setting']}{f', finished {result.ended[:10]}' if result.ended else ''}"),
        ("Meant to", result.aim),
        ("Intended use and users", ""),
        ("Not to be used for", "anything but research: it is not a medical device"),
        ("Training data", known["source"]),
        ("Test data", known["numbers"]),
        ("Result", known.get("result", "")),
        ("For whom it works less well", known.get("fairness", "")),
        ("What it may tell of a patient", privacy(result)),
        ("Ethical considerations", ""),
    )
    return tuple(Item("", asks, answer) for asks, answer in rows)


def privacy(result: Result) -> str:
    """The patients' protection in one line."""
    facts = result.privacy
    if facts.kind == "none" or facts.epsilon is None:
        return "no bound: trained without differential privacy"
    return (
        f"differential privacy for each patient with all images, epsilon {facts.epsilon:g} at delta "
        f"{plain(facts.delta or 0)}" + _resting_on(facts)
    )


def _resting_on(facts: PrivacyFacts) -> str:
    """On whose noise that rests, and what holds without it."""
    if facts.kind == "local" and facts.honest_hospitals is None:
        return ""
    whose = "for test patients, " if facts.kind == "local" else ""
    alone = "" if facts.epsilon_alone is None else f", else {facts.epsilon_alone:.2f}"
    return f"{', ' if not whose else '; '}{whose}if the other hospitals add their noise{alone}"


def facts(result: Result) -> dict[str, str]:
    """What the study itself knows, by topic."""
    figures, hospitals = result.federated.figures, len(result.hospitals)
    made_up = result.data == "phantom"
    whose = "made-up images (phantoms)" if made_up else "images of the hospitals' own patients"
    patients = figures.get("patients")
    headline = result.reading()
    known = {
        "kind": f"the model learned to {result.aim}; deep learning, federated over {hospitals} hospitals",
        "goal": "development of a model and its evaluation on patients of the same hospitals",
        "source": f"{whose}; {hospitals} hospitals; {result.profile} images",
        "setting": f"{hospitals} hospitals: {', '.join(result.hospitals)}",
        "identities": "images did not leave their hospital; only masked sums did",
        "missing": "lines of a manifest without a readable image or label were not used",
        "truth": TRUTHS.get(result.task, ""),
        "splits": "by each hospital's manifest; a patient stays in one part for life",
        "level": "patient",
        "model": f"{result.model}, {result.parameters:,} trained parameters, weights "
        f"{short_hash(result.federated.model)}…",
        "software": f"MedVeil {result.medveil}",
        "chosen": "the model of the last round; no choice was made on test patients",
        "ensemble": "none",
        "figures": result.headline_meaning,
        "uncertainty": "95 % intervals from the pooled counts"
        + (", with the noise that was added to them" if result.noised else ""),
        "internal": "on test patients of all hospitals together, from one masked sum",
        "predictors": "the image alone",
        "output": _output(result),
        "centres": _centres(result),
        "protocol": f"plan {short_hash(result.plan)}…, signed by every hospital before training",
        "limits": "",
        **_recipe(result),
    }
    known["numbers"] = "" if patients is None else f"{patients:,.0f} test patients; none was used in training"
    if headline is not None and headline.value is not None:
        known["result"] = f"{result.headline_name} {interval_words(headline, result.unit)}"
    if result.scored_classes and result.task == "classification":
        known["accuracy"] = "two-by-two table, sensitivity and specificity on this page"
    if groups(result):
        known["fairness"] = "figures by group on this page"
    return known


def _output(result: Result) -> str:
    if result.task == "regression" and result.target:
        return f"a number from {result.target.low:g} to {result.target.high:g} {result.target.unit}".rstrip()
    if result.task == "segmentation":
        return "a class for every pixel or voxel; the most probable one counts"
    return "a probability for each class; from 0.5 on it counts as positive"


def _centres(result: Result) -> str:
    exact = result.federated.exact
    return (
        "figures of each hospital on this page"
        if (exact and exact.sites) or agreed_sites(result)
        else "not seen: only sums over hospitals leave them"
    )


def _unit(result: Result) -> str:
    label = result.headline_label.partition(" in ")
    return label[2]


def _recipe(result: Result) -> dict[str, str]:
    recipe = result.recipe
    if recipe is None:
        return {}
    edges = " × ".join(map(str, recipe.size))
    spacing = (
        f", voxels of {' × '.join(f'{mm:g}' for mm in recipe.spacing_mm)} mm" if recipe.spacing_mm else ""
    )
    channels = "" if recipe.channels == 1 else f", {recipe.channels} channels"
    changes = f"; random changes: {', '.join(recipe.changes)}" if recipe.changes else ""
    schedule = "" if recipe.schedule == "constant" else f", falling ({recipe.schedule})"
    own = (
        f"; {recipe.personal} tensors stay in each hospital, which is judged with its own"
        if recipe.personal
        else ""
    )
    return {
        "preparation": f"profile {result.profile}: {edges}{channels}{spacing}",
        "start": f"weights {short_hash(recipe.initial_model)}…, named in the plan",
        "training": f"{recipe.rounds} rounds of {recipe.work} at each hospital, {recipe.optimizer} at rate "
        f"{recipe.learning_rate:g}{schedule}, joined by {recipe.strategy}{changes}{own}",
        "limits": own
        and "the published model lacks the hospitals' own weights: alone it does not reach these figures",
    }
