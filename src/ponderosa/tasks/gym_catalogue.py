"""reasoning-gym's tasks by name: which there are, which are refused and why, and what their answers look like.

Every entry was found by running the task's scorer on its own reference answer, on changed ones, on other problems'
answers and on two answers at once (reasoning-gym 0.1.25); a test repeats this over the whole list.
"""

import re

GYM_TASKS = tuple(
    """
ab acre advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation
binary_matrix bitwise_arithmetic boxnet caesar_cipher calendar_arithmetic chain_sum circuit_logic codeio
coin_flip color_cube_rotation complex_arithmetic count_bits count_primes countdown course_schedule
cryptarithm decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font
fraction_simplification futoshiki game_of_life game_of_life_halting gcd graph_color group_anagrams
gsm_symbolic intermediate_integration isomorphic_strings jugs kakurasu knight_swap knights_knaves
largest_island lcm leg_counting letter_counting letter_jumble list_functions mahjong_puzzle
manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format
number_sequence number_sorting palindrome_generation palindrome_partitioning path_star
polynomial_equations polynomial_multiplication pool_matrix power_function prime_factorization products
propositional_logic puzzle24 quantum_lock ransom_note rearc rectangle_count rotate_matrix rotten_oranges
rubiks_cube rush_hour self_reference sentence_reordering shortest_path simple_equations simple_geometry
simple_integration sokoban spell_backward spiral_matrix string_insertion string_manipulation
string_splitting string_synthesis sudoku survo syllogism time_intervals tower_of_hanoi tsumego word_ladder
word_sequence_reversal word_sorting zebra_puzzles
""".split()
)
"""All but `composite`, which only mixes others."""

REFUSED = {
    "game_of_life_halting": "its scorer gives 1.0 to any text that is not empty",
    "puzzle24": "its scorer does not look at the puzzle: any four numbers in range that make 24 score 1.0",
}
"""Tasks whose scorer cannot tell right from wrong."""

VERIFY_ONLY = frozenset({"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"})
"""Tasks without a reference answer: they can be verified and rewarded, not imitated."""

SEEDED_BY_DATASET = frozenset({"acre", "gsm_symbolic", "list_functions", "word_ladder"})
"""Tasks that draw from a list as long as the dataset, so that each item needs a dataset of its own."""

_FUNCTIONS = "asin|acos|atan|sinh|cosh|sin|cos|tan|exp|log|sqrt"
_FORMULA = rf"(?:[\d\s+\-*/()^]|\.(?!\s*[A-Za-z_])|(?:{_FUNCTIONS}|[A-Za-z])(?![A-Za-z_]))++"
"""Arithmetic over one-letter variables and known functions. Possessive, so that no text takes long to refuse."""

ANSWER_SHAPES = {
    name: re.compile(pattern)
    for name, pattern in {
        # These scorers evaluate the answer as Python. They are confined as well; this keeps an answer from
        # reaching the scorer's own state.
        "binary_matrix": r"[\d\s]+",
        "countdown": r"(?s:(?!.*\*\*))[\d\s+\-*/()]+",
        "intermediate_integration": _FORMULA,
        "n_queens": r"[_Q\s]+",
        "polynomial_multiplication": _FORMULA,
        "simple_integration": _FORMULA,
        "spiral_matrix": r"[-\d\s]+",
        "string_insertion": r"[A-Z]*",
        # These read a right answer out of a longer text, so that "6 or 7" would be right for 6.
        "fraction_simplification": r"\$?(?:\\d?frac\s*\{-?\d+\}\s*\{-?\d+\}|-?\d+\s*/\s*-?\d+)\$?",
        "gsm_symbolic": r"-?\d+(?:\.\d+)?",
        "kakurasu": r"[01\s]+",
        "polynomial_equations": r"[-+\d.,e\s]*",
        "sokoban": r"[LRUD]+",
        "survo": r"[-\d\s]+",
        "time_intervals": r"-?\d+(?: days?)?(?:,? ?\d+:[\d:.]+)?|\d+:[\d:.]+",
    }.items()
}
"""What a whole answer must look like to be scored at all, where the scorer itself is too trusting."""


def is_well_formed(task: str, candidate: str, answer: str | None) -> bool:
    """May this candidate be handed to the task's scorer?"""
    shape = ANSWER_SHAPES.get(task)
    if shape and not shape.fullmatch(candidate.strip()):
        return False
    if answer is not None and task == "letter_jumble":  # words after the right ones cost nothing there
        return len(candidate.split()) == len(answer.split())
    if answer is not None and task == "spell_backward":  # nor do letters here, for some lengths
        return len(candidate.strip()) == len(answer)
    return bool(candidate.strip())
