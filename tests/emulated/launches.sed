# What of CUDA's language no C++ compiler reads: launches, and shared memory whose size comes with one.
s/<<</ ->* emulated::config(/g
s/>>>(/)(/g
s/extern __shared__ \(__align__([0-9]*) \)\{0,1\}\(.*[^ ]\) \([A-Za-z_]*\)\[\];/\2 *\3 = (\2 *)emulated::dynamic_shared();/
