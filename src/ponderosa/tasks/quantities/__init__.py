"""`quantities`: word problems made as graphs of named quantities.

relations.py       what ties quantities together: 21 kinds, what each computes and how it is said
graph.py           drawing, evaluating, re-numbering and comparing graphs
wording.py         a graph as a question, as code steps, as prose
task.py            the task: options, splits, problems
textbook.py        the running text a base model is grown on
planted_errors.py  solutions with one error, whose step is known
"""
