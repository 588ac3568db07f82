"""The report's words in English and Spanish: every phrase a person reads has its place here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.errors import InputError

LANGUAGES = ("en", "es")

PHRASES: Mapping[str, tuple[str, str]] = {
    # tables
    "hyperparameters": ("Hyperparameters", "Hiperparámetros"),
    "metrics": ("Metrics", "Métricas"),
    "published": ("Against the published figures", "Frente a las cifras publicadas"),
    "importance": ("Importance of the settings", "Importancia de los ajustes"),
    "share of variance": ("share of the variance", "parte de la varianza"),
    "note importance": (
        (
            "The share of the variance of {metric} over the space that a setting explains alone: main effects of a "
            "functional analysis of variance on a random forest fitted to the trials (Hutter, Hoos and Leyton-Brown, "
            "ICML 2014); what is left to 1 are interactions."
        ),
        (
            "La parte de la varianza de {metric} en el espacio que un ajuste explica por sí solo: efectos principales "
            "de un análisis funcional de la varianza sobre un bosque aleatorio ajustado a las pruebas (Hutter, Hoos y "
            "Leyton-Brown, ICML 2014); lo que falta hasta 1 son interacciones."
        ),
    ),
    "trials": ("Trials of the search", "Pruebas de la búsqueda"),
    "one epoch": ("1 epoch", "1 época"),
    "many epochs": ("{count} epochs", "{count} épocas"),
    "results of": ("Results of {name}", "Resultados de {name}"),
    "run": ("run", "corrida"),
    "architecture": ("architecture", "arquitectura"),
    "seeds": ("seeds", "semillas"),
    "interval": ("95 % interval", "intervalo 95 %"),
    "reference": ("published", "publicado"),
    "difference": ("difference", "diferencia"),
    "ours": ("ours", "nuestro"),
    "metric": ("metric", "métrica"),
    "GPU-hours": ("GPU-hours", "horas de GPU"),
    "trial": ("trial", "prueba"),
    "state": ("state", "estado"),
    "same for all": ("The same for all", "Igual en todas"),
    "equal everywhere": ("The same in every run that has it", "Igual en toda corrida que lo tiene"),
    "note spread": (
        "Mean ± standard deviation over seeds; the number of seeds, or what is missing and why, is in its column.",
        "Media ± desviación estándar sobre las semillas; su número, o qué falta y por qué, está en su columna.",
    ),
    "note interval": (
        "The interval is a stratified bootstrap over the test titles.",
        "El intervalo es un bootstrap estratificado sobre los títulos de prueba.",
    ),
    "note bold": (
        (
            "Bold: the best of a column; for balanced accuracy also what a paired permutation test "
            "(Holm corrected, 5 %) cannot tell from it."
        ),
        (
            "En negrita: lo mejor de cada columna; en exactitud balanceada, también lo que una prueba de permutación "
            "pareada (corrección de Holm, 5 %) no distingue de ello."
        ),
    ),
    "note chosen": (
        "★ has the best validation balanced accuracy: the one to choose without looking at the test.",
        "★ tiene la mejor exactitud balanceada de validación: la que se elige sin mirar la prueba.",
    ),
    # metrics
    "train_loss": ("training loss", "pérdida de entrenamiento"),
    "validation_loss": ("validation loss", "pérdida de validación"),
    "test_loss": ("test loss", "pérdida de prueba"),
    "train_balanced_accuracy": ("training balanced accuracy", "exactitud balanceada de entrenamiento"),
    "validation_balanced_accuracy": ("validation balanced accuracy", "exactitud balanceada de validación"),
    "test_balanced_accuracy": ("test balanced accuracy", "exactitud balanceada de prueba"),
    "validation_accuracy": ("validation accuracy", "exactitud de validación"),
    "test_accuracy": ("test accuracy", "exactitud de prueba"),
    "validation_macro_f1": ("validation macro F1", "F1 macro de validación"),
    "test_macro_f1": ("test macro F1", "F1 macro de prueba"),
    "validation_top5": ("validation top-5", "top-5 de validación"),
    "test_top5": ("test top-5", "top-5 de prueba"),
    "best_epoch": ("best epoch", "mejor época"),
    "epochs_run": ("epochs run", "épocas hechas"),
    "parameters": ("trained weights", "pesos entrenados"),
    "train_seconds": ("training (s)", "entrenamiento (s)"),
    # plots
    "loss": ("loss (cross-entropy)", "pérdida (entropía cruzada)"),
    "balanced accuracy": ("balanced accuracy", "exactitud balanceada"),
    "epoch": ("epoch", "época"),
    "training": ("training", "entrenamiento"),
    "validation": ("validation", "validación"),
    "test": ("test", "prueba"),
    "curves title": (
        "{group}: loss and balanced accuracy per epoch",
        "{group}: pérdida y exactitud balanceada por época",
    ),
    "recall title": ("{group}: test recall per category, sorted", "{group}: recall de prueba por categoría, ordenado"),
    "recall": ("recall", "recall"),
    "category rank": ("categories, worst to best", "categorías, de peor a mejor"),
    "confusion title": (
        "{run}: the most confused categories (test)",
        "{run}: las categorías más confundidas (prueba)",
    ),
    "true category": ("true category", "categoría verdadera"),
    "predicted category": ("predicted category", "categoría predicha"),
    "titles": ("titles", "títulos"),
    "share of titles": ("share of the true category's titles", "parte de los títulos de la categoría verdadera"),
    "cost title": ("Score against cost", "Puntaje frente a costo"),
    "seconds title": ("Score against training time", "Puntaje frente a tiempo de entrenamiento"),
    "training time": ("training time (s)", "tiempo de entrenamiento (s)"),
    "search title": ("{search}: the best so far over the epochs spent", "{search}: lo mejor según las épocas gastadas"),
    "epochs spent": ("epochs spent by all trials", "épocas gastadas por todas las pruebas"),
    "of the variance": ("{share} of the variance", "{share} de la varianza"),
    "best so far": ("best so far", "mejor hasta ahora"),
    "space title": ("{search}: the score over the space", "{search}: el puntaje en el espacio"),
    "other runs": ("{count} other runs", "otras {count} corridas"),
    "stopped early": ("stopped early", "cortada antes"),
    # states and causes
    "waiting": ("waiting", "en espera"),
    "running": ("running", "en curso"),
    "done": ("done", "terminada"),
    "failed": ("failed", "fallida"),
    "lost": ("lost", "perdida"),
    "unknown": ("unknown", "desconocida"),
    "error": ("error", "error"),
    "out of memory": ("out of memory", "sin memoria"),
    "GPU out of memory": ("GPU out of memory", "GPU sin memoria"),
    "time limit": ("time limit", "tiempo agotado"),
    "preempted too often": ("preempted too often", "desalojada demasiadas veces"),
    "node failure": ("node failure", "fallo del nodo"),
    "no GPU": ("no GPU", "sin GPU"),
    "cancelled": ("cancelled", "cancelada"),
    "diverged": ("diverged", "divergió"),
    "at chance": ("at chance", "al azar"),
    "upstream failed": ("upstream failed", "falló lo anterior"),
    "killed": ("killed", "matada"),
    "broken record": ("broken record", "registro roto"),
    # observations
    "observations": ("Observations", "Observaciones"),
    "best run": (
        "{group}: the best validation balanced accuracy is {run}'s ({validation}); it reaches {test} on test.",
        "{group}: la mejor exactitud balanceada de validación es la de {run} ({validation}); en prueba alcanza {test}.",
    ),
    "best by architecture": (
        "Best {architecture}: {run} ({group}), {test} on test, chosen by its {validation} on validation.",
        "Mejor {architecture}: {run} ({group}), {test} en prueba, elegida por su {validation} en validación.",
    ),
    "ahead": (
        "{first} is ahead of {second} by {difference} on test ({verdict}).",
        "{first} supera a {second} por {difference} en prueba ({verdict}).",
    ),
    "more than chance": ("more than chance, p {p}", "más que azar, p {p}"),
    "not more than chance": ("no more than chance, p {p}", "no más que azar, p {p}"),
    "overfits": (
        (
            "{run} overfits: its validation loss rises from {lowest} at epoch {at} to {last} at epoch {end}, "
            "while its training loss falls to {train}."
        ),
        (
            "{run} sobreajusta: su pérdida de validación sube de {lowest} en la época {at} a {last} en la época {end}, "
            "mientras la de entrenamiento baja a {train}."
        ),
    ),
    "underfits": (
        (
            "{run} was still learning when it stopped: its validation balanced accuracy rose by {gain} "
            "in its last epoch, to {last}."
        ),
        (
            "{run} seguía aprendiendo al terminar: su exactitud balanceada de validación subió {gain} "
            "en la última época, a {last}."
        ),
    ),
    "at chance run": (
        (
            "{run} was at chance: balanced accuracy {score} after {epochs}, where guessing among "
            "{classes} categories gives {chance}."
        ),
        (
            "{run} quedó al azar: exactitud balanceada {score} tras {epochs}, cuando adivinar entre "
            "{classes} categorías da {chance}."
        ),
    ),
    "stopped at chance": (
        "{run} was stopped at chance level after {epochs}: {message}",
        "{run} se cortó a nivel de azar tras {epochs}: {message}",
    ),
    "diverged run": (
        "{run} diverged after {epochs}: {message}",
        "{run} divergió tras {epochs}: {message}",
    ),
    "validation against test": (
        (
            "Test is {direction} validation by {difference} of balanced accuracy on average over {count} runs "
            "(between {lowest} and {highest})."
        ),
        (
            "La prueba queda {direction} la validación por {difference} de exactitud balanceada en promedio sobre "
            "{count} corridas (entre {lowest} y {highest})."
        ),
    ),
    "above": ("above", "por encima de"),
    "below": ("below", "por debajo de"),
    "unreliable": (
        (
            "{run}: on titles whose label is marked unreliable the test accuracy is {unreliable}, "
            "against {reliable} on reliable ones ({titles} titles; worst in {worst})."
        ),
        (
            "{run}: en títulos con etiqueta marcada como no confiable la exactitud de prueba es {unreliable}, "
            "frente a {reliable} en los confiables ({titles} títulos; peor en {worst})."
        ),
    ),
    "loses to linear": (
        "{run} does not beat linear: {score} against {linear} on test ({verdict}).",
        "{run} no supera a linear: {score} frente a {linear} en prueba ({verdict}).",
    ),
    "all beat linear": (
        "Every finished network beats linear ({linear} on test).",
        "Todas las redes terminadas superan a linear ({linear} en prueba).",
    ),
    "many more": ("… and {count} more like this.", "… y {count} más así."),
    "nothing yet": ("Nothing is finished yet.", "Todavía no terminó nada."),
    # the page
    "report": ("Report", "Informe"),
    "missing rows": (
        "{missing} of {total} runs have no final figures yet ({told}). This report shows what there is.",
        "{missing} de {total} corridas no tienen todavía cifras finales ({told}). Este informe muestra lo que hay.",
    ),
    "all done": ("All {total} runs are finished.", "Las {total} corridas terminaron."),
    "contents": ("Contents", "Contenido"),
    "group": ("group", "grupo"),
    "filter": ("Filter rows", "Filtrar filas"),
    "filter hint": ("type words that a row must hold", "palabras que la fila debe contener"),
    "rows shown": ("{shown} of {total} rows", "{shown} de {total} filas"),
    "sort by": ("Sort by {column}", "Ordenar por {column}"),
    "curves": ("Curves", "Curvas"),
    "plots": ("Plots", "Gráficos"),
    "settings": ("Settings", "Ajustes"),
    "setting": ("setting", "ajuste"),
    "value": ("value", "valor"),
    "figures": ("Figures", "Cifras"),
    "figure": ("figure", "cifra"),
    "log": ("End of the log", "Final del registro"),
    "reproduce": ("How to reproduce it", "Cómo reproducirla"),
    "reproduce text": (
        "From the project's folder, at commit {commit}:",
        "Desde la carpeta del proyecto, en el commit {commit}:",
    ),
    "unknown commit": ("unknown", "desconocido"),
    "recall per category": ("Recall per category", "Recall por categoría"),
    "category": ("category", "categoría"),
    "support": ("titles", "títulos"),
    "confusions": ("Most frequent confusions", "Confusiones más frecuentes"),
    "confused with": ("taken for", "tomada por"),
    "back": ("Back to the report", "Volver al informe"),
    "files": ("Files", "Archivos"),
    "theme": ("Dark or light", "Oscuro o claro"),
    "show or hide": ("Show or hide {run}", "Mostrar u ocultar {run}"),
    "show all": ("show all", "mostrar todas"),
    "hide all": ("hide all", "ocultar todas"),
    "no curves": ("No epoch is finished yet.", "Todavía no terminó ninguna época."),
    "searches": ("Searches", "Búsquedas"),
    "cause": ("cause", "causa"),
    "message": ("message", "mensaje"),
    "attempts": ("attempts", "intentos"),
    "seed": ("seed", "semilla"),
    "node": ("node", "nodo"),
    "skip": ("Skip to the content", "Saltar al contenido"),
    "language": ("en", "es"),
    # compare
    "settings that differ": ("Settings that differ", "Ajustes que difieren"),
    "metrics that differ": ("Metrics that differ", "Métricas que difieren"),
    "no difference": ("none", "ninguno"),
    "only in": ("Only in {report}: {runs}.", "Solo en {report}: {runs}."),
    "verdict": ("verdict", "veredicto"),
}


@dataclass(frozen=True, slots=True)
class Messages:
    """Phrases in one language; raises KeyError for a phrase that is not there."""

    language: str

    def __call__(self, key: str, **values: Any) -> str:
        phrase = PHRASES[key][LANGUAGES.index(self.language)]
        return phrase.format(**values) if values else phrase

    def reason(self, reason: str) -> str:
        """A state or a cause; one that has no translation stands as it is."""
        return self(reason) if reason in PHRASES else reason

    def name(self, key: str) -> str:
        """A metric's or setting's name; hyperparameters keep their exact names in every language."""
        return self(key) if key in PHRASES else key


def make_words(language: str) -> Messages:
    """The words of ``report: {language: ..}``; raises ValueError naming the legal ones."""
    if language not in LANGUAGES:
        raise InputError(f"report.language: must be one of {', '.join(LANGUAGES)}, not {language!r}")
    return Messages(language)
