"""How to read the numbers of `inheritance`, for who sees them for the first time and for a report to print."""

READING = {
    "temperature": "What its Q-values or logits are divided by before they become probabilities; every number made of "
    "probabilities depends on it.",
    "parameters": "How many numbers act; smaller is cheaper to store.",
    "flops": "Multiplications and additions of one decision; fewer is cheaper to run, though time need not follow.",
    "entropy_teacher_states": "How undecided it is, in nats, where its teacher plays: 0 is always sure, log(actions) "
    "finds all alike.",
    "entropy_student_states": "The same where it plays itself; more than where its teacher plays says that it gets to "
    "places it is unsure of.",
    "effective_rank": "How many directions its last features fill where the first teacher plays; a fall over "
    "generations says that they use less of their room.",
    "disagreement": "Share of states on which two siblings prefer other actions; 0 is copies, which gain nothing from "
    "a vote.",
    "jensen_shannon": "How different the probabilities of two siblings are, in nats: 0 is equal, 0.69 (log 2) has "
    "nothing in common.",
    "agreement_teacher_states": "Share of the teacher's states on which both prefer the same action (of continuous "
    "actions R squared); 1 is a perfect copy.",
    "agreement_student_states": "The same where the child plays itself; lower than on the teacher's states says that "
    "it gets to places it was not taught.",
    "kl_teacher_states": "How far the child's probabilities are from the teacher's, in nats, on the teacher's states; "
    "0 is equal.",
    "kl_student_states": "The same where the child plays itself.",
    "nll": "Surprise of the child, in nats, at what the teacher does; the least it can be is the teacher's own "
    "entropy.",
    "nll_sampled": "The same for one action drawn from the teacher in each state; it differs from NLL by luck alone.",
    "calibration_error": "How far the child's confidence is from how often the teacher would do the same; 0 is honest, "
    "0.1 is ten points off.",
    "calibration_error_sampled": "The same for one drawn action in each state; seldom 0, since luck does not "
    "cancel inside a bin.",
    "feature_cka": "How alike the inputs of both last layers are, but for turning and scaling; 1 is the same, near 0 "
    "is unrelated.",
    "layer_cka": "The same layer by layer, first to last, on at most 1,024 of the teacher's states; where "
    "it drops is where the child began to see in its own way.",
    "cka": "How alike both networks' answers of this layer are; as for the last features.",
    "gradient_variance_hard": "Noise of a sample's push on the child's outputs when it learns from one drawn action; "
    "less learns faster.",
    "gradient_variance_soft": "The same when it learns from the teacher's whole answer.",
    "gradient_variance_ratio": "Soft over hard: near 0, whole answers take away nearly all noise; near 1, they bring "
    "nothing.",
    "knowledge_total": "How far the teacher's answers are from its bare preferred action; near 0 there is nothing but "
    "labels to learn.",
    "knowledge_smoothing": "Share of it that label smoothing, the same in all states, would bring as well.",
    "knowledge_rescaling": "Share of it that tells in which states the teacher is less sure.",
    "knowledge_relation": "Share of it that tells which other actions are nearly as good, the dark knowledge.",
    "novelty_quarters": "The child's own states in four parts, from those most like the teacher's states to the least "
    "like; agreement that falls from first to last hints that what it learnt does not carry over to new places.",
    "distance": "How far, on average, the teacher's features of these states are from its nearest on its own states; "
    "only an order, it has no unit.",
    "agreement": "Share of these states on which both prefer the same action.",
    "kl": "How far the child's probabilities are from the teacher's there, in nats.",
}
"""One sentence on how to read each number of `inheritance`, by its key."""
