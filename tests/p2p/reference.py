"""The reference's alignment (google/prompt-to-prompt, seq_aligner.py), written out from its description."""

import numpy as np
import torch


class Reference:
    """The reference's alignment, written out entry by entry from its description."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.n = tokenizer.model_max_length
        self.first = tokenizer.num_special_tokens_to_add() - 1  # T5 has an end but no beginning

    def word_tokens(self, prompt, position):
        words, found, at, length = prompt.split(" "), [], 0, 0
        for k, token in enumerate(self.tokenizer.encode(prompt)[self.first : -1], start=self.first):
            if at == position:
                found.append(k)
            length += len(self.tokenizer.decode([token]).strip("#"))
            if length >= len(words[at]):
                at, length = at + 1, 0
        return found

    def replacement(self, source, target):
        swapped = [
            k for k, (x, y) in enumerate(zip(source.split(" "), target.split(" "), strict=True)) if x != y
        ]
        todo = [(self.word_tokens(source, k), self.word_tokens(target, k)) for k in swapped]
        mapper = np.zeros((self.n, self.n))
        i = j = 0
        while max(i, j) < self.n:
            if todo and todo[0][0][0] == i:
                rows, columns = todo.pop(0)
                for row_number, row in enumerate(rows):
                    for column_number, column in enumerate(columns):
                        if len(rows) != len(columns):
                            mapper[row, column] = 1 / len(columns)
                        elif row_number == column_number:
                            mapper[row, column] = 1
                i, j = i + len(rows), j + len(columns)
            else:
                mapper[i if todo else j, j] = 1
                i, j = i + 1, j + 1
        return torch.tensor(mapper, dtype=torch.float32)

    def refinement(self, source, target):
        x, y = self.tokenizer.encode(source), self.tokenizer.encode(target)
        score = np.zeros((len(x) + 1, len(y) + 1))
        move = np.full(score.shape, "left", dtype=object)
        move[1:, 0] = "up"
        for i in range(1, len(x) + 1):
            for j in range(1, len(y) + 1):
                options = {
                    "left": score[i, j - 1],
                    "up": score[i - 1, j],
                    "diagonal": score[i - 1, j - 1] + (1 if x[i - 1] == y[j - 1] else -1),
                }
                move[i, j] = max(options, key=options.__getitem__)  # the first of equals
                score[i, j] = options[move[i, j]]
        mapper = np.arange(self.n)
        i, j = len(x), len(y)
        while j > 0:
            if move[i, j] == "up":
                i -= 1
            elif move[i, j] == "left":
                j -= 1
                mapper[j] = -1
            else:
                i, j = i - 1, j - 1
                mapper[j] = i
        return torch.from_numpy(mapper), torch.from_numpy(mapper != -1).float()
