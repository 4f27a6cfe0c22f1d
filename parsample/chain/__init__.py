"""A chain is a state space model, ``s_t = f_t(s_{t-1})``: recursions, BlackJAX algorithms, Gibbs samplers."""
