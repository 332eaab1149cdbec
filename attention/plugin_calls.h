/* plugin_calls.h: included by attn.h in a plug-in: the program's functions by their own names, each
 * through the host's table. One line for each of ATTN_HOST_CALLS: a missing one is an error of
 * every plug-in's compilation, see the end. A plug-in is one source file, because attn_host_ is its
 * own. */
#ifndef ATTN_PLUGIN_CALLS_H
#define ATTN_PLUGIN_CALLS_H
static const attn_host *attn_host_;
#define al_fail_at attn_host_->al_fail_at
#define al_error attn_host_->al_error
#define al_nearest attn_host_->al_nearest
#define al_dtype_name attn_host_->al_dtype_name
#define al_dtype_size attn_host_->al_dtype_size
#define al_tensor_new attn_host_->al_tensor_new
#define al_tensor_full attn_host_->al_tensor_full
#define al_tensor_from attn_host_->al_tensor_from
#define al_retain attn_host_->al_retain
#define al_release attn_host_->al_release
#define al_type attn_host_->al_type
#define al_ndim attn_host_->al_ndim
#define al_size attn_host_->al_size
#define al_shape attn_host_->al_shape
#define al_numel attn_host_->al_numel
#define al_read attn_host_->al_read
#define al_shape_str attn_host_->al_shape_str
#define al_scope_begin attn_host_->al_scope_begin
#define al_scope_end attn_host_->al_scope_end
#define al_detach attn_host_->al_detach
#define al_grad_mode attn_host_->al_grad_mode
#define al_opts_has attn_host_->al_opts_has
#define al_opts_given attn_host_->al_opts_given
#define al_opt_kind attn_host_->al_opt_kind
#define al_opt_bool attn_host_->al_opt_bool
#define al_opt_int attn_host_->al_opt_int
#define al_opt_num attn_host_->al_opt_num
#define al_opt_word attn_host_->al_opt_word
#define al_opt_is attn_host_->al_opt_is
#define al_opt_list attn_host_->al_opt_list
#define al_opts_text attn_host_->al_opts_text
#define al_run attn_host_->al_run
#define al_run_into attn_host_->al_run_into
#define attn_state_get attn_host_->attn_state_get
#define attn_state_put attn_host_->attn_state_put
#define attn_state_batch attn_host_->attn_state_batch
#define attn_state_position attn_host_->attn_state_position
#define al_opt_choice attn_host_->al_opt_choice
#define attn_state_even attn_host_->attn_state_even

/* A name that is routed expands to one with the table before it, so its text is longer. */
#define ATTN_TEXT_(x) #x
#define ATTN_TEXT(x) ATTN_TEXT_(x)
#define ATTN_ROUTED(f)                                                                             \
  _Static_assert(sizeof ATTN_TEXT(f) == sizeof "attn_host_->" #f,                                  \
                 #f " of ATTN_HOST_CALLS has no line in plugin_calls.h");
ATTN_HOST_CALLS(ATTN_ROUTED)
#undef ATTN_ROUTED
#undef ATTN_TEXT
#undef ATTN_TEXT_
#endif
