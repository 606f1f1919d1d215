"""The program that TOUR.md follows: a linear classifier and one step of gradient descent."""

import graphc as gc
from graphc import nn, optim

x = gc.observed("x", (32, 64))
y = gc.observed("y", (32,), gc.int64)
logits = nn.Linear(64, 10)(x)
loss = nn.CrossEntropyLoss()(logits, y)
step = gc.compile([x, y], loss, optim.SGD(lr=0.1).minimize(loss), name="step")
